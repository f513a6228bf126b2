"""Language models as orchestrators: any OpenAI-compatible endpoint (Gemini, vLLM, Ollama), and replay of a transcript.

A reply is checked by pydantic.  One that is not JSON, does not fit the schema, names an unknown colour or sub-goal, or
never comes is a *counted outcome* (``counts``), asked again a bounded number of times, and at last answered by refusal:
a bad reply can cost an episode, never the run.  Every exchange, bad ones included, is written to a transcript, from
which ``ReplayOrchestrator`` repeats a run and its counts without a network, word for word; a run that is continued asks
nothing twice.  Keys come from the environment alone and are never written.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pydantic

from daag_jax.agent.orchestrator import SwapDecision, caption_of, read_caption
from daag_jax.agent.prompts import CAN_SWAP, DECOMPOSE, SETTING
from daag_jax.envs.palette import PALETTE_NAMES
from daag_jax.envs.tasks.rgb_stacking_scenes import captions

Reply = TypeVar("Reply", bound=pydantic.BaseModel)
MAX_SUBGOALS = 8  # of one task
ANSWERED = "answered"  # the outcome of a usable reply


class Subgoals(pydantic.BaseModel):
    """Reply to the first question."""

    subgoals: list[str] = pydantic.Field(min_length=1, max_length=MAX_SUBGOALS)

    @pydantic.field_validator("subgoals")
    @classmethod
    def known_captions(cls, subgoals: list[str]) -> list[str]:
        """Each sub-goal as its caption: another case or a full stop would never match one."""
        statements = [read_caption(subgoal) for subgoal in subgoals]
        for subgoal, statement in zip(subgoals, statements, strict=True):
            if statement is None or caption_of(statement) not in captions():
                raise ValueError(f"sub-goal {subgoal!r} is no caption of this world")
        return [caption_of(statement) for statement in statements]


class Swaps(pydantic.BaseModel):
    """Reply to the second question."""

    possible: bool
    swaps: list[tuple[str, str]] = []
    reason: str = ""

    @pydantic.field_validator("swaps")
    @classmethod
    def known_colors(cls, swaps: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Colours may be said as "red", "red object" or "the red cube"."""
        bare = lambda text: re.sub(r"\b(the|objects?|blocks?|cubes?)\b", "", text.lower()).strip()
        cleaned = [(bare(source), bare(target)) for source, target in swaps]
        for color in (c for pair in cleaned for c in pair):
            if color not in PALETTE_NAMES:
                raise ValueError(f"color {color!r} is not one of {PALETTE_NAMES}")
        if len({source for source, _ in cleaned}) != len(cleaned):
            raise ValueError(f"swaps {cleaned} give one colour two targets")
        if len({target for _, target in cleaned}) != len(cleaned):
            raise ValueError(f"swaps {cleaned} give two colours one target")
        return cleaned


@dataclass(frozen=True)
class EndpointConfig:
    """Where the model is and how patient to be; our choice."""

    model: str = ""  # as the endpoint names it
    base_url: str | None = None  # None: OpenAI's own
    key_variable: str = "OPENAI_API_KEY"  # environment variable that holds the key
    timeout: float = 20.0  # [s] per request
    attempts: int = 3  # per question, malformed replies included
    temperature: float = 0.0
    transcript: str | None = None  # a JSONL file to append to

    def __post_init__(self):
        if self.attempts < 1 or self.timeout <= 0:
            raise ValueError(
                f"attempts={self.attempts}, timeout={self.timeout}: both must be positive."
            )


class Attempt(NamedTuple):
    """One request: the text that came back, if any, and what it counts as."""

    text: str | None
    outcome: str


class LanguageModelOrchestrator:
    """Asks an OpenAI-compatible endpoint; answers are kept, so a question is asked once.

    An existing transcript is continued: what it answers is not asked again, and its outcomes are counted.  A question
    to which no text ever came (no network, a wrong key) is asked again.

    Raises:
        ValueError: the transcript is broken, or another model's.
    """

    def __init__(self, config: EndpointConfig):
        try:
            import openai
        except ImportError as error:
            raise ImportError(
                "a language model needs the extra `llm`: pip install daag-jax[llm]."
            ) from error
        self.config = config
        self.counts: Counter = Counter()
        self.answers: dict[str, str | None] = {}
        if config.transcript is not None and Path(config.transcript).exists():
            self._continue(Path(config.transcript))
        self._openai = openai
        # endpoints on this machine need no key, but the client insists on one
        key = os.environ.get(config.key_variable, "none")
        self._client = openai.OpenAI(
            api_key=key, base_url=config.base_url, timeout=config.timeout, max_retries=0
        )

    def decompose(self, task: str) -> tuple[str, ...]:
        """The model's sub-goals; none, where it gave no usable reply."""
        reply = self._ask(DECOMPOSE.replace("TASK", task), Subgoals)
        return tuple(reply.subgoals) if reply else ()

    def can_swap(self, achieved: str, desired: str) -> SwapDecision:
        """The model's verdict; a refusal, where it gave no usable reply."""
        question = CAN_SWAP.replace("ACHIEVED", achieved).replace("DESIRED", desired)
        return decision_of(self._ask(question, Swaps))

    def _continue(self, path: Path) -> None:
        drop_broken_end(path)
        for row in read_transcript(path):
            if row.get("model", self.config.model) != self.config.model:
                raise ValueError(
                    f"transcript {path} is of model {row['model']!r}, not {self.config.model!r}; "
                    "name another file."
                )
            attempts = row.get("attempts", ())
            self.counts.update(outcome for _, outcome in attempts)
            if row["answer"] is not None or any(text is not None for text, _ in attempts):
                self.answers[row["question"]] = row["answer"]

    def _ask(self, question: str, schema: type[Reply]) -> Reply | None:
        if question not in self.answers:
            attempts = []
            while len(attempts) < self.config.attempts:
                attempts.append(self._request(question, schema))
                if attempts[-1].outcome == ANSWERED:
                    break
            self.counts.update(attempt.outcome for attempt in attempts)
            is_answered = attempts[-1].outcome == ANSWERED
            self.answers[question] = attempts[-1].text if is_answered else None
            row = {"question": question, "answer": self.answers[question]}
            row |= {"model": self.config.model, "attempts": attempts}
            record(self.config.transcript, row)
        return parsed(self.answers[question], schema)[0]

    def _request(self, question: str, schema: type[Reply]) -> Attempt:
        try:
            answer = self._client.chat.completions.create(
                model=self.config.model,
                temperature=self.config.temperature,
                messages=[
                    {"role": "system", "content": SETTING},
                    {"role": "user", "content": question},
                ],
            )
        except self._openai.OpenAIError as error:
            return Attempt(None, f"no reply: {type(error).__name__}")
        except json.JSONDecodeError:  # a proxy's page, say, that calls itself JSON
            return Attempt(None, "no reply: not of this protocol")
        try:
            text = answer.choices[0].message.content
        except (AttributeError, IndexError, TypeError):
            return Attempt(None, "no reply: not of this protocol")
        text = text if isinstance(text, str) else None
        return Attempt(text, parsed(text, schema)[1])


class ReplayOrchestrator:
    """Repeats the answers of a transcript, and the outcomes that it counted.

    Raises:
        FileNotFoundError, ValueError: there is no transcript, or a line of it is broken (the line is named).
        ValueError: a question that the transcript does not hold.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.counts: Counter = Counter()
        self.rows = {row["question"]: row for row in read_transcript(self.path)}
        self._asked: set[str] = set()

    def decompose(self, task: str) -> tuple[str, ...]:
        """The recorded sub-goals."""
        reply = self._find(DECOMPOSE.replace("TASK", task), Subgoals)
        return tuple(reply.subgoals) if reply else ()

    def can_swap(self, achieved: str, desired: str) -> SwapDecision:
        """The recorded verdict."""
        question = CAN_SWAP.replace("ACHIEVED", achieved).replace("DESIRED", desired)
        return decision_of(self._find(question, Swaps))

    def _find(self, question: str, schema: type[Reply]) -> Reply | None:
        if question not in self.rows:
            said = question.splitlines()[-3:-1]
            raise ValueError(f"{self.path} holds no answer to {said}; record the run again.")
        row = self.rows[question]
        if question not in self._asked:
            self._asked.add(question)
            self.counts.update(outcome for _, outcome in row.get("attempts", ()))
        return parsed(row["answer"], schema)[0]


def parsed(text: str | None, schema: type[Reply]) -> tuple[Reply | None, str]:
    """A reply as its schema, None where it does not fit, and the outcome that this counts as."""
    if text is None:
        return None, "no reply: empty"
    text = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        return schema.model_validate_json(text), ANSWERED
    except pydantic.ValidationError as error:
        kind = error.errors()[0]["type"]
        return None, "not JSON" if kind == "json_invalid" else f"malformed: {kind}"


def decision_of(reply: Any) -> SwapDecision:
    """A checked reply as a decision."""
    if reply is None:
        return SwapDecision(False, (), "the language model gave no usable reply")
    swaps = tuple((a, b) for a, b in reply.swaps if a != b)
    if not reply.possible or not swaps:
        return SwapDecision(False, (), reply.reason or "refused")
    return SwapDecision(True, swaps, reply.reason)


def record(path: str | None, row: dict[str, Any]) -> None:
    """Appends one exchange to a transcript."""
    if path is None:
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a") as file:
        file.write(json.dumps(row) + "\n")


def read_transcript(path: Path) -> list[dict[str, Any]]:
    """The exchanges of a transcript.

    Raises:
        FileNotFoundError, ValueError: there is none, or a line of it is broken (the line is named).
    """
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append(row | {"question": row["question"], "answer": row["answer"]})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is no exchange; record it again.") from error
    return rows


def drop_broken_end(path: Path) -> None:
    """Cuts off a last line that a killed process did not finish; its question is asked again."""
    text = path.read_text()
    if text and not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1])
