"""LUNA16, lung lobes."""


def test_converts_the_published_layout(miniature, assert_converts):
    series = "1.3.6.1.4.1.14519.5.2.1.6279.6001.109002525524522225658609808059"
    label = miniature.label("luna16_lobes")
    label[1, 5, 5], label[2, 5, 5] = 1, 512
    miniature.save(f"subset3/{series}.mhd", miniature.image())
    miniature.save(f"annotations/{series}_LobeSegmentation.nrrd", label)
    miniature.save("subset3/1.3.6.1.4.1.nobody.annotated.mhd", miniature.image())
    assert_converts("luna16_lobes", training=1)
