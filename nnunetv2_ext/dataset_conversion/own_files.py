"""Files that lie where the user says: volumes, or pictures of two dimensions."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from nnunetv2_ext.dataset_conversion.converter import DatasetConverter
from nnunetv2_ext.dataset_conversion.layout import FilePattern, matching_files
from nnunetv2_ext.images.files import JPEG, PICTURES
from nnunetv2_ext.images.reading import read_volumes
from nnunetv2_ext.utilities.errors import UserError

# Channel names of pictures by their number.
_COLOURS = {1: ("grey",), 3: ("R", "G", "B"), 4: ("R", "G", "B", "A")}


class OwnFiles(DatasetConverter):
    """Images and annotations in any files; pictures stay pictures with all colours in one file, as for nnU-Net."""

    def file_patterns(self) -> tuple[FilePattern, ...]:
        """The usual ones, unless the user says where files lie; and those of a test set where the user has one.

        Raises:
            UserError: What the user says names no cases, or classes where there are none, or none where there are.
        """
        options = self.options
        (usual,) = self.entry.patterns
        training = replace(usual, image=options.image or usual.image, label=options.label or usual.label)
        _check(training, usual, "--image and --label")
        if options.test_image is None:
            if options.test_label is not None:
                raise UserError("Expected --test_image, the images that --test_label belongs to, but got none.")
            return (training,)
        test = FilePattern(options.test_image, options.test_label, "test")
        _check(test, usual, "--test_image and --test_label")
        return training, test

    @property
    def file_ending(self) -> str:  # type: ignore[override]
        """Of volumes .nii.gz; of pictures .tif, which also holds floats, or .png."""
        if self._picture is None:
            return DatasetConverter.file_ending
        return ".tif" if self._picture[0].suffix.lower() in (".tif", ".tiff") else ".png"

    @property
    def admits_2d(self) -> bool:  # type: ignore[override]
        """Whether these are pictures."""
        return self._picture is not None

    @property
    def joins_channels(self) -> bool:  # type: ignore[override]
        """Whether the channels are the colours of one picture."""
        return self._picture is not None and self._picture[1] > 1

    def channels(self) -> tuple[str, ...]:
        """The user's, or the colours of pictures, or CT."""
        if self.options.channel_names or self._picture is None:
            return super().channels()
        file, colours = self._picture
        if colours not in _COLOURS:
            raise UserError(
                f"Expected one, three or four colours in {file}, but it has {colours}; name them (--channels)."
            )
        return _COLOURS[colours]

    @cached_property
    def _picture(self) -> tuple[Path, int] | None:
        """The first image that can be read, and how many colours it has; None where that is no picture."""
        for pattern in self.file_patterns():
            pictures = pattern.image.lower().endswith((*PICTURES, *JPEG))
            for file in sorted(matching_files(self.root, pattern.image)) if pictures else ():
                try:
                    colours = read_volumes(file)
                except UserError:
                    # It is told when its case is converted.
                    continue
                return (file, len(colours)) if colours[0].grid.dimension == 2 else None
        return None


def _check(pattern: FilePattern, usual: FilePattern, flags: str) -> None:
    """Refuses patterns of another kind of layout."""
    labels = [] if pattern.label is None else [pattern.label]
    if all("{case}" in text for text in (pattern.image, *labels)) and (
        not labels or pattern.has_masks == usual.has_masks
    ):
        return
    image, label = flags.split(" and ")
    wanted, other = (
        (
            f"{{case}} in {image} and {{case}} and {{class}} in {label}",
            "one label map per case is the layout 'label_maps'",
        )
        if usual.has_masks
        else (f"{{case}} in {flags}, and no {{class}}", "one mask per class is the layout 'masks'")
    )
    given = " and ".join(map(repr, (pattern.image, *labels)))
    raise UserError(f"Expected {wanted}, but got {given}; {other}.")
