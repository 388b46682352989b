from benchmarks.kept_models import KeptModels
from benchmarks.plain_conv4 import PlainConv4
from models.backbones import Conv4


def test_models_that_are_asked_stay_when_there_are_too_many() -> None:
    small_net, kept = PlainConv4(Conv4((1, 16, 16), filters=8), n_way=2), KeptModels(most=2)
    first, second = kept.keep(small_net, ["a"]), kept.keep(small_net, ["b"])
    assert kept.find(first) == (small_net, ["a"])
    third = kept.keep(small_net, ["c"])
    assert kept.find(second) is None
    assert [kept.find(each) for each in (first, third)] == [(small_net, ["a"]), (small_net, ["c"])]
