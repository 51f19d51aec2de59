"""Writes the tables and plots of the committed records: ``python -m experiments.report``."""

from experiments.analysis.report import main

if __name__ == "__main__":
    main()
