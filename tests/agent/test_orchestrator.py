"""What may become what: decomposition, swaps, refusals, errors on purpose."""

import pytest

from daag_jax.agent.orchestrator import (
    NoisyOrchestrator,
    RuleOrchestrator,
    caption_of,
    extract_query,
    grasping,
    on_top,
    read_caption,
)

RULES = RuleOrchestrator()


def test_a_stack_is_a_grasp_and_a_relation():
    goals = RULES.decompose("Stack the red object on top of the blue object")
    assert goals == (grasping("red"), on_top("red", "blue"))


def test_a_tower_is_built_from_below():
    goals = RULES.decompose(
        "Stack the red object on top of the green object on top of the blue object"
    )
    assert goals == (
        grasping("green"),
        on_top("green", "blue"),
        grasping("red"),
        on_top("red", "green"),
    )


def test_an_unknown_task_is_refused_by_name():
    with pytest.raises(ValueError, match="Juggle"):
        RULES.decompose("Juggle the red object")


@pytest.mark.parametrize(
    ("achieved", "desired", "swaps"),
    [
        (grasping("green"), grasping("red"), (("green", "red"),)),
        (on_top("red", "blue"), on_top("green", "red"), (("red", "green"), ("blue", "red"))),
        (on_top("red", "blue"), on_top("blue", "red"), (("red", "blue"), ("blue", "red"))),
        (on_top("red", "blue"), on_top("red", "green"), (("blue", "green"),)),
    ],
)
def test_the_same_relation_with_other_colours_can_be_had(achieved, desired, swaps):
    decision = RULES.can_swap(achieved, desired)
    assert decision.possible and decision.swaps == swaps


@pytest.mark.parametrize(
    ("achieved", "desired"),
    [
        (on_top("red", "blue"), grasping("green")),  # another relation
        (grasping("red"), on_top("red", "blue")),
        (on_top("red", "blue"), on_top("red", "blue")),  # nothing to do
        ("The block is left of the moon", "The block is right of the moon"),
        (grasping("red"), "The robot is grasping the moon"),
        (on_top("red", "blue"), on_top("green", "green")),
    ],
)
def test_what_colours_cannot_do_is_refused(achieved, desired):
    decision = RULES.can_swap(achieved, desired)
    assert not decision.possible and decision.reason and not decision.swaps


@pytest.mark.parametrize("caption", [grasping("pink"), on_top("red", "cyan")])
def test_reading_a_caption_inverts_stating_it(caption):
    assert caption_of(read_caption(caption)) == caption
    assert caption_of(read_caption(f"  {caption.upper()}. ")) == caption


def test_what_is_looked_for_can_become_a_sub_goal():
    captions = [grasping("red"), grasping("blue"), on_top("red", "blue"), on_top("blue", "green")]
    query = lambda task: extract_query(RULES, task, [*captions, "The robot rests"])
    assert query("Grasp the red object") == (grasping("red"), grasping("blue"))
    assert query("Stack the red object on top of the blue object") == tuple(captions)


def test_a_noisy_planner_forgets_all_but_the_last_goal():
    task = "Stack the red object on top of the blue object"
    assert NoisyOrchestrator(p_err=1.0).decompose(task) == (on_top("red", "blue"),)


def test_errors_have_their_rate_and_repeat():
    questions = [
        (on_top(a, b), on_top(c, d))
        for a in ("red", "green", "blue", "pink")
        for b in ("red", "green", "blue", "pink")
        for c in ("cyan", "orange", "purple")
        for d in ("yellow", "red")
        if a != b
    ]
    noisy = NoisyOrchestrator(p_err=0.3, seed=1)
    wrong = [noisy.can_swap(*q) != RULES.can_swap(*q) for q in questions]
    assert 0.15 < sum(wrong) / len(wrong) < 0.45
    assert wrong == [noisy.can_swap(*q) != RULES.can_swap(*q) for q in questions]
    exact = NoisyOrchestrator(p_err=0.0)
    assert all(exact.can_swap(*q) == RULES.can_swap(*q) for q in questions)
    with pytest.raises(ValueError, match="p_err=2"):
        NoisyOrchestrator(p_err=2.0)
