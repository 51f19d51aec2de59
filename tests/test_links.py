"""Links, anchors and names of files in the pages of documentation lead to something."""

import re
from pathlib import Path

import pytest

from experiments.cli.signatures import ROOT

FOLDERS = ("agents", "amc_env", "conf", "experiments", "tests")
PAGES = [ROOT / "README.md", *(page for name in FOLDERS for page in sorted((ROOT / name).rglob("*.md")))]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"[\w./-]+(\.(py|yaml|md|txt|npz|ipynb|toml)|\w/)")
OF_USERS = re.compile(r"(runs|report|mine)/.*|agent/mine\.yaml|my_\w+\.py")  # what commands write, or users


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Seen from the page's folder, the root, `tests`, or anywhere below the folder for a name alone."""
    text = re.sub(r"\[[^]]*\]\([^)]*\)", "", FENCED.sub("", page.read_text()))
    words = " ".join(re.findall(r"`([^`\n]+)`", text)).split()
    for name in (word for word in words if FILE.fullmatch(word) and not OF_USERS.fullmatch(word)):
        places = [folder / name for folder in (page.parent, ROOT, ROOT / "tests")]
        below = "/" not in name and list(page.parent.rglob(name))
        assert below or any(place.exists() for place in places), name


@pytest.mark.parametrize("name", ["published.yaml", "amc_env/tables/", "../results/removed/", "a.b/c.py"])
def test_what_looks_like_a_file(name: str) -> None:
    assert FILE.fullmatch(name)
