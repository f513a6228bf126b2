"""What the expert's term does: clip of the batch's means, of each pair, or none; matched and mismatched schedules.

    python -m experiments.dbc.expert_term                     # about 25 min on one core
    python -m experiments.dbc.expert_term --preset smoke      # minutes

L_expert has no gradient in the policy, so the clip of means is a gate ("guidance/closed" is how often it shuts);
"mismatched" trains the model on sigmoid betas and guides with a cosine, as the code before August 2024 did.
Expect differences of a percent or two; on Maze leaving the term out is best, though not clearly better
than the release.
"""

from __future__ import annotations

from collections.abc import Mapping

import tyro

from experiments.dbc.arms import Arm, bc_arm, dbc_arm
from experiments.dbc.problems import Loaded, weight_of
from experiments.dbc.study import Options, Results, study


def main(config: Options) -> Results:
    def arms(loaded: Loaded) -> Mapping[str, Arm]:
        make = lambda **changes: dbc_arm(loaded.sizes, weight_of(loaded), **changes)
        return {
            "BC": bc_arm(loaded.sizes),
            "DBC, means": make(),
            "DBC, pairs": make(clip="sample"),
            "DBC, no expert": make(clip="none"),
            "DBC, mismatched": make(policy_schedule="cosine"),
        }

    return study(config, "expert_term", arms)


if __name__ == "__main__":
    main(tyro.cli(Options))
