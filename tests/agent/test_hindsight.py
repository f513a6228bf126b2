"""Hindsight decides on the host, from scores alone: what is kept, what is edited, what is counted."""

from collections import Counter

import numpy as np
import pytest

from daag_jax.agent.hindsight import (
    HindsightConfig,
    Kept,
    Plan,
    first_times,
    plan,
    with_rewarded,
)
from daag_jax.agent.orchestrator import RuleOrchestrator, grasping, on_top

CAPTIONS = (
    grasping("red"),
    grasping("green"),
    on_top("red", "blue"),
    on_top("green", "red"),
)
TASK = "Stack the red object on top of the blue object"


def times_of(**achieved):
    """Times [1, M] of one episode: caption index -> time."""
    row = np.full((1, len(CAPTIONS)), -1)
    for index, time in achieved.items():
        row[0, int(index[1:])] = time
    return row


def decide(times, **config):
    return plan(times, CAPTIONS, TASK, RuleOrchestrator(), HindsightConfig(**config))


def test_the_first_sight_counts_and_nothing_before_an_action_or_after_the_end():
    scores = np.zeros((1, 5, 4))
    scores[0, 2:, 0] = 0.9  # seen from 2 on
    scores[0, :, 1] = 0.9  # true from the start: nobody's achievement
    scores[0, 4, 2] = 0.9  # after the end
    scores[0, 1, 3] = 0.9  # a column that is not looked for
    found = first_times(scores, np.full(4, 0.5), np.array([3]), np.array([True, True, True, False]))
    np.testing.assert_array_equal(found, [[2, -1, -1, -1]])


def test_a_matching_sub_goal_is_kept_and_not_edited():
    decided = decide(times_of(_0=1, _1=2))
    assert [(k.end, k.caption) for k in decided.kept] == [(1, grasping("red"))]
    assert not decided.requests and decided.outcomes["matched"] == 1


def test_another_sub_goal_is_edited_into_ours():
    decided = decide(times_of(_1=1, _3=3))
    assert not decided.kept
    assert [(r.end, r.desired) for r in decided.requests] == [
        (1, grasping("red")),
        (3, on_top("red", "blue")),
    ]
    assert decided.requests[1].swaps == (("green", "red"), ("red", "blue"))
    assert decided.outcomes["swap refused"] > 0


@pytest.mark.parametrize("asked, desired", [(True, [on_top("red", "blue")]), (False, [])])
def test_a_matched_episode_is_edited_only_on_request(asked, desired):
    decided = decide(times_of(_0=1, _3=3), edit_when_matched=asked)
    assert [k.caption for k in decided.kept] == [grasping("red")]
    assert [r.desired for r in decided.requests] == desired


def test_a_rewarded_episode_is_kept_whole_and_once():
    length, goal = np.array([3, 3, 3]), on_top("red", "blue")
    decided = Plan((Kept(0, 3, grasping("red")), Kept(1, 3, goal)), (), Counter(matched=2))
    found = with_rewarded(decided, np.array([True, True, False]), length, TASK, goal)
    assert found.kept == (*decided.kept, Kept(0, 3, TASK))
    assert found.outcomes == {"matched": 2, "rewarded": 2, "not rewarded": 1}


def test_nothing_achieved_is_a_counted_outcome():
    decided = decide(times_of())
    assert not decided.kept and not decided.requests
    assert decided.outcomes == {"achieved nothing": 1}


def test_edits_of_one_episode_are_bounded():
    assert len(decide(times_of(_1=1, _3=3), max_edits=1).requests) == 1


def test_an_agent_that_may_not_edit_asks_for_no_edit():
    decided = plan(
        times_of(_1=1), CAPTIONS, TASK, RuleOrchestrator(), HindsightConfig(), may_edit=False
    )
    assert decided.outcomes == {"achieved other": 1} and not decided.requests


@pytest.mark.parametrize("mode", ["exchange", "permute"])
def test_the_census_of_colours_survives(mode):
    from daag_jax.editing.masks import swap_mapping

    mapping = swap_mapping({"green": "red"}, ("red", "green", "blue"), mode)
    assert sorted(mapping.values()) == ["blue", "green", "red"]
    replaced = swap_mapping({"green": "red"}, ("red", "green", "blue"), "replace")
    assert sorted(replaced.values()) == ["blue", "red", "red"]
