import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunetv2_ext.training.pseudo_dice import count_hits


@given(seed=st.integers(0, 1000), ignore=st.booleans(), classes=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_counts_equal_those_of_masks(seed, ignore, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, classes, 4, 5, generator=generator)
    label_map = torch.randint(0, 5 if ignore else 4, (3, 1, 4, 5), generator=generator).to(torch.int16)
    annotated = torch.rand(3, classes, generator=generator) < 0.6
    regions = torch.rand(classes, 4, generator=generator) < 0.4
    counts = count_hits(logits, label_map, annotated, regions, 4 if ignore else None)
    for c in range(classes):
        expected = [0, 0, 0]
        for b in range(3):
            if not annotated[b, c]:
                continue
            members = [v for v in range(4) if regions[c, v]]
            for logit, label in zip(logits[b, c].flatten().tolist(), label_map[b].flatten().tolist(), strict=True):
                if ignore and label == 4:
                    continue
                predicted, reference = logit > 0, label in members
                expected[0] += predicted and reference
                expected[1] += predicted and not reference
                expected[2] += reference and not predicted
        assert counts[:, c].tolist() == expected
