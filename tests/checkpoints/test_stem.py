from __future__ import annotations

import pytest
import torch

from nnunetv2_ext.checkpoints.stem import adapt_stem


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (2, 3), (3, 2)])
def test_one_image_in_all_channels_gives_what_it_gave(before, after):
    torch.manual_seed(0)
    source = torch.randn(5, before, 3, 3, 3, dtype=torch.float64)
    image = torch.randn(1, 1, 6, 6, 6, dtype=torch.float64)
    adapted, how = adapt_stem(source, after, None, None)
    assert adapted.shape == (5, after, 3, 3, 3)
    found = torch.nn.functional.conv3d(image.expand(-1, after, -1, -1, -1), adapted)
    expected = torch.nn.functional.conv3d(image.expand(-1, before, -1, -1, -1), source)
    torch.testing.assert_close(found, expected)
    assert how.startswith(f"input channels {before} -> {after}")


def test_channels_of_the_same_name_keep_their_weights():
    source = torch.randn(5, 3, 3, 3)
    adapted, how = adapt_stem(source, 2, ["FLAIR", "t1"], ["T1", "T2", "flair"])
    assert torch.equal(adapted, source[:, [2, 0]])
    assert how == "input channels FLAIR, t1 taken by name"
    adapted, how = adapt_stem(source, 3, ["T2", "T1", "FLAIR"], ["T1", "T2", "FLAIR"])
    assert torch.equal(adapted, source[:, [1, 0, 2]])
    for names in (["T1", "T2", "FLAIR"], ["a", "b", "c"], ["T1", "T1", "T2"], None):
        unchanged, how = adapt_stem(source, 3, names, ["T1", "T2", "FLAIR"])
        assert (how, torch.equal(unchanged, source)) == ("", True)


def test_names_that_are_unknown_share_the_weights():
    source = torch.randn(5, 3, 3, 3)
    adapted, _ = adapt_stem(source, 1, ["CT"], ["T1", "T2", "FLAIR"])
    torch.testing.assert_close(adapted[:, 0], source.sum(1))
