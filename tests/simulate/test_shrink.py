"""Shrinking finds the part of a list that matters."""

from hypothesis import given
from hypothesis import strategies as st

from antiphon.simulate.shrink import shrink


@given(st.lists(st.integers(0, 30), max_size=40, unique=True), st.data())
def test_what_matters_is_all_that_is_left(items: list[int], data: st.DataObject) -> None:
    """If a list fails when it has certain elements, exactly these are left, in their order."""
    needed = data.draw(st.sets(st.sampled_from(items)) if items else st.just(set()))
    assert shrink(items, lambda part: needed <= set(part), budget=10_000) == [each for each in items if each in needed]


@given(st.lists(st.integers(0, 9), max_size=25), st.integers(1, 30))
def test_what_is_left_fails_and_the_budget_is_kept(items: list[int], budget: int) -> None:
    """Whatever the condition, the result still fails, is a part of the list, and no more questions are asked."""
    asked = []

    def fails(part: list[int]) -> bool:
        asked.append(part)
        return sum(part) >= sum(items) // 2

    left = shrink(items, fails, budget=budget)
    assert sum(left) >= sum(items) // 2
    assert len(asked) <= budget
    rest = iter(items)
    assert all(each in rest for each in left)


def test_a_result_cannot_be_shortened_by_one() -> None:
    """Even where elements only matter together, none of what is left can be left out."""

    def fails(part: list[int]) -> bool:
        return sum(part) % 7 == 3

    left = shrink([*range(1, 24), 7], lambda part: fails(part) or part == [*range(1, 24), 7], budget=10_000)
    assert all(not fails(left[:at] + left[at + 1 :]) for at in range(len(left)))


def test_nothing_is_needed_for_what_always_fails() -> None:
    """A fault that shows without any fault of the schedule shrinks to an empty schedule at once."""
    assert shrink(["a", "b", "c"], lambda _: True, budget=1) == []
