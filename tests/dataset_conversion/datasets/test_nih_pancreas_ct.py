"""NIH Pancreas-CT."""


def test_converts_the_published_layout(miniature, assert_converts):
    miniature.dicom("Pancreas-CT/PANCREAS_0001/11-24-2015-study/series", miniature.image())
    label = miniature.label("nih_pancreas_ct")
    # As published: the axes are those of the header, the position is not.
    miniature.save("TCIA_pancreas_labels-02-05-2017/label0001.nii.gz", label, axes="LAS", origin=(0, 0, 0))
    assert_converts("nih_pancreas_ct", training=1)
