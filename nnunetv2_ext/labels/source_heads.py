"""The exclusive classes of a source, which a softmax tells apart: regions cut into what they do not share.

Of the regions liver {1, 2} and tumour {2}, the softmax head of their source has background, the liver outside the
tumour, and the tumour.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nnunetv2_ext.labels.channels import BACKGROUND
from nnunetv2_ext.labels.partial_labels import PartialLabels


@dataclass(frozen=True)
class SourceHead:
    """What the outputs of a source's head stand for.

    Attributes:
        regions: Class of the source to its label values, in the order of the collection's classes.
        values: Label values of each output after the background.
    """

    regions: Mapping[str, tuple[int, ...]]
    values: tuple[tuple[int, ...], ...]

    @property
    def outputs(self) -> int:
        """Outputs of the head, background included."""
        return 1 + len(self.values)

    @property
    def classes(self) -> list[list[str]]:
        """The classes that each output after the background belongs to."""
        return [[name for name, region in self.regions.items() if values[0] in region] for values in self.values]

    @property
    def labels(self) -> dict[str, Any]:
        """``labels`` of a dataset.json with one integer per output; each is called by the smallest class it is in."""
        within = [sorted(classes, key=self._size) for classes in self.classes]
        taken = Counter(names[0] for names in within)
        names = [names[0] if taken[names[0]] == 1 else "+".join(names) for names in within]
        return {BACKGROUND: 0, **{name: output for output, name in enumerate(names, 1)}}

    def painted(self, integers: Mapping[str, int]) -> list[int]:
        """The integer of each output in a label map in which later classes overwrite earlier ones; 0 for none.

        Args:
            integers: Classes that are painted, to their integers.
        """
        # The classes of an output are in the order in which they are painted.
        return [
            0,
            *(next((integers[name] for name in reversed(names) if name in integers), 0) for names in self.classes),
        ]

    def _size(self, name: str) -> int:
        return len(self.regions[name])


def source_heads(partial_labels: PartialLabels) -> dict[str, SourceHead]:
    """The head of each source, in the order of the sources."""
    heads = {}
    for source, content in partial_labels.sources.items():
        own = set(content.classes)
        regions = {name: partial_labels.label_values(name) for name in partial_labels.class_names if name in own}
        values: dict[tuple[bool, ...], list[int]] = {}
        for value in sorted({value for region in regions.values() for value in region}):
            values.setdefault(tuple(value in region for region in regions.values()), []).append(value)
        heads[source] = SourceHead(regions, tuple(map(tuple, values.values())))
    return heads
