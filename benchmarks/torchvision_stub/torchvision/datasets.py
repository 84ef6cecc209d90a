"""Names that mosaicml-streaming imports."""


class VisionDataset:
    """Never built."""
