"""Batches are filled in order, and an interrupted one is planned as it was."""

from dataclasses import replace

from tasks.generate.job_batches import Item, ItemSettings, plan_batches


def items(
    *keys: str, word: str | None = None, family: str = "Stable Video Diffusion", longer: str | None = None
) -> list[Item]:
    own = ItemSettings(
        family=family, prompt=None, negative_prompt=None,
        key="", picture_sha256="", seed=0, take=0, word=word, steps=2, fps=7, motion_bucket=1, guidance_min=1,
        guidance_max=1, noise_aug=0, frames=4, longer=longer, width=32, height=32, lora_sha256=None, lora_strength=None,
        dtype="float32",
    )  # fmt: skip
    return [Item(key, key, "", "m", "r", None, own) for key in keys]


def planned(items: list[Item], done: dict[str, list[str]], size: int) -> list[str]:
    return ["".join(i.item_key for i in batch) for batch in plan_batches(items, done, size)]


def test_other_families_than_stable_video_diffusion_are_sampled_one_by_one():
    assert planned(items(*"abc", family="Wan"), {}, 2) == ["a", "b", "c"]


def test_chains_are_sampled_one_by_one_and_windows_together():
    assert planned(items(*"abc", longer="chain"), {}, 2) == ["a", "b", "c"]
    assert planned(items(*"abc", longer="windows"), {}, 2) == ["ab", "c"]


def test_missing_items_fill_batches_in_order():
    assert planned(items(*"abcde"), {}, 2) == ["ab", "cd", "e"]
    assert planned(items(*"abcde"), {"a": ["a", "b"], "b": ["a", "b"]}, 2) == ["cd", "e"]


def test_an_interrupted_batch_is_planned_as_it_was():
    assert planned(items(*"abcde"), {"a": ["a", "b"]}, 2) == ["ab", "cd", "e"]
    assert planned(items(*"xabcd"), {"b": ["a", "b"]}, 2) == ["ab", "xc", "d"]


def test_an_interrupted_batch_that_can_no_longer_be_made_is_not():
    assert planned(items(*"abcd"), {"a": ["a", "b"]}, 1) == ["b", "c", "d"]
    assert planned(items(*"bcd"), {"c": ["a", "c", "d"]}, 3) == ["bd"]


def test_items_with_and_without_a_word_never_share_a_batch():
    assert planned([*items("a"), *items("b", word="w"), *items("c")], {}, 4) == ["ac", "b"]


def test_first_takes_go_before_second_ones_and_the_urgent_before_the_others_also_in_batches():
    (one,) = items("one")

    def ranked(key: str, take: int, priority: int, word: str | None = None) -> Item:
        settings = one.settings.model_copy(update={"take": take, "word": word})
        return replace(one, item_key=key, settings=settings, priority=priority)

    listed = [ranked("a", 0, 1), ranked("b", 1, 1), ranked("c", 0, 9), ranked("d", 1, 9), ranked("e", 0, 5, "w")]
    assert planned(listed, {}, 1) == ["c", "e", "a", "d", "b"]
    assert planned(listed, {}, 2) == ["c", "e", "ad", "b"], "none goes before a more urgent one to fill a batch"
    mixed = [ranked(key, 0, 0, word) for key, word in zip("abcd", ("v", None, "v", None), strict=True)]
    assert planned(mixed, {}, 2) == ["ac", "bd"]
