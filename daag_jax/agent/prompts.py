"""The two questions to a language model, each with a description of the setting and two examples (DAAG's two prompts).

The paper's own wording is not public; these are ours.  Replies are JSON and are checked against a schema.
"""

from __future__ import annotations

SETTING = (
    "A robot gripper works above a table with coloured objects. Sub-goals are sentences of two kinds: "
    "'The robot is grasping the X object' and 'The X object is on top of the Y object'. "
    "A diffusion model can change the colours of objects in recorded video. "
    "It cannot move, add, remove or reshape them. "
    "Answer with one JSON object and nothing else."
)

DECOMPOSE = (
    "Which sub-goals does a task pass through, in order?\n"
    'Task: Grasp the red object\nAnswer: {"subgoals": ["The robot is grasping the red object"]}\n'
    "Task: Stack the red object on top of the blue object\n"
    'Answer: {"subgoals": ["The robot is grasping the red object", "The red object is on top of the blue object"]}\n'
    "Task: TASK\nAnswer:"
)

CAN_SWAP = (
    "A video shows an achieved sub-goal. Could new colours alone make it show the desired one? "
    "Which colour becomes which?\n"
    "Achieved: The red object is on top of the blue object\nDesired: The green object is on top of the red object\n"
    'Answer: {"possible": true, "swaps": [["red", "green"], ["blue", "red"]], "reason": "the same relation"}\n'
    "Achieved: The red object is on top of the blue object\nDesired: The robot is grasping the green object\n"
    'Answer: {"possible": false, "swaps": [], "reason": "another relation"}\n'
    "Achieved: ACHIEVED\nDesired: DESIRED\nAnswer:"
)
