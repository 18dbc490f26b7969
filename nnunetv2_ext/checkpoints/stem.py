"""The weights that see the image, for other image channels than they were trained with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def adapt_stem(
    source: Tensor, channels: int, ours: Sequence[str] | None, theirs: Sequence[str] | None
) -> tuple[Tensor, str]:
    """Weights for other image channels, and how they came about in words, which are empty where nothing changed.

    Channels that are known by name get the weights of their name. Otherwise those of all channels are added up, and
    each new channel gets an equal share: a network that sees one image in all channels computes what it did before.

    Args:
        source: Weights of a convolution, ``(features, channels, *kernel)``.
        channels: How many the network has.
        ours: Their names, where known.
        theirs: Names of the channels of ``source``, where known.
    """
    before = source.shape[1]
    wanted, known = ([name.casefold() for name in names or ()] for names in (ours, theirs))
    is_named = (len(set(wanted)), len(set(known))) == (channels, before) and set(wanted) <= set(known)
    if is_named and before > 1:
        order = [known.index(name) for name in wanted]
        if order == list(range(before)):
            return source, ""
        return source[:, order], f"input channels {', '.join(ours or ())} taken by name"
    if before == channels:
        return source, ""
    shares = source.sum(1, keepdim=True).expand(-1, channels, *(-1,) * (source.ndim - 2)) / channels
    added = "weights" if before == 1 else "weights added up,"
    return shares, f"input channels {before} -> {channels}, {added} repeated and divided by {channels}"
