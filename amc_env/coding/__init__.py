"""How a compressed network is written: sparse positions, shared values and Huffman codes in one file."""


class CodingError(ValueError):
    """A compressed file that is damaged, of another version, or cannot be written."""
