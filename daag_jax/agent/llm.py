"""Language models as orchestrators: any OpenAI-compatible endpoint (Gemini, vLLM, Ollama), and replay of a transcript.

A reply is checked by pydantic.  One that is not JSON, does not fit the schema, names an unknown colour, or never
comes is
a *counted outcome* (``counts``), asked again a bounded number of times, and at last answered by refusal: a bad
reply can
cost an episode, never the run.  Every exchange is written to a transcript, from which ``ReplayOrchestrator``
repeats a run
without a network, word for word.  Keys come from the environment alone and are never written.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from daag_jax.agent.orchestrator import SwapDecision
from daag_jax.agent.prompts import CAN_SWAP, DECOMPOSE, SETTING
from daag_jax.envs.palette import PALETTE_NAMES

Reply = TypeVar("Reply", bound=pydantic.BaseModel)


class Subgoals(pydantic.BaseModel):
    """Reply to the first question."""

    subgoals: list[str] = pydantic.Field(min_length=1)


class Swaps(pydantic.BaseModel):
    """Reply to the second question."""

    possible: bool
    swaps: list[tuple[str, str]] = []
    reason: str = ""

    @pydantic.field_validator("swaps")
    @classmethod
    def known_colors(cls, swaps: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Colours may be said as "red" or "red object"."""
        cleaned = [tuple(c.lower().replace(" object", "").strip() for c in pair) for pair in swaps]
        for color in (c for pair in cleaned for c in pair):
            if color not in PALETTE_NAMES:
                raise ValueError(f"color {color!r} is not one of {PALETTE_NAMES}")
        return cleaned


@dataclass(frozen=True)
class EndpointConfig:
    """Where the model is and how patient to be; our choice."""

    model: str
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


class LanguageModelOrchestrator:
    """Asks an OpenAI-compatible endpoint; answers are kept, so a question is asked once."""

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
        self._errors = openai.OpenAIError
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

    def _ask(self, question: str, schema: type[Reply]) -> Reply | None:
        if question in self.answers:
            return parsed(self.answers[question], schema, Counter())
        for _ in range(self.config.attempts):
            text = self._request(question)
            reply = parsed(text, schema, self.counts)
            if reply is not None:
                break
        self.answers[question] = text if reply is not None else None
        record(self.config.transcript, question, self.answers[question])
        return reply

    def _request(self, question: str) -> str | None:
        try:
            answer = self._client.chat.completions.create(
                model=self.config.model,
                temperature=self.config.temperature,
                messages=[
                    {"role": "system", "content": SETTING},
                    {"role": "user", "content": question},
                ],
            )
        except self._errors as error:
            self.counts[f"no reply: {type(error).__name__}"] += 1
            return None
        return answer.choices[0].message.content if answer.choices else None


class ReplayOrchestrator:
    """Repeats the answers of a transcript.

    Raises:
        FileNotFoundError, ValueError: there is no transcript, or a line of it is broken (the line is named).
        KeyError: a question that the transcript does not hold.
    """

    def __init__(self, path: str | Path):
        self.path, self.answers = Path(path), {}
        for number, line in enumerate(self.path.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
                self.answers[row["question"]] = row["answer"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number} is no exchange; record it again."
                ) from error

    def decompose(self, task: str) -> tuple[str, ...]:
        """The recorded sub-goals."""
        reply = self._find(DECOMPOSE.replace("TASK", task), Subgoals)
        return tuple(reply.subgoals) if reply else ()

    def can_swap(self, achieved: str, desired: str) -> SwapDecision:
        """The recorded verdict."""
        question = CAN_SWAP.replace("ACHIEVED", achieved).replace("DESIRED", desired)
        return decision_of(self._find(question, Swaps))

    def _find(self, question: str, schema: type[Reply]) -> Reply | None:
        if question not in self.answers:
            said = question.splitlines()[-3:-1]
            raise KeyError(f"{self.path} holds no answer to {said}; record the run again.")
        return parsed(self.answers[question], schema, Counter())


def parsed(text: str | None, schema: type[Reply], counts: Counter) -> Reply | None:
    """A reply as its schema, None where it does not fit; the outcome is counted."""
    if text is None:
        return None
    text = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        reply = schema.model_validate_json(text)
    except pydantic.ValidationError as error:
        kind = error.errors()[0]["type"]
        counts["not JSON" if kind == "json_invalid" else f"malformed: {kind}"] += 1
        return None
    counts["answered"] += 1
    return reply


def decision_of(reply: Any) -> SwapDecision:
    """A checked reply as a decision."""
    if reply is None:
        return SwapDecision(False, (), "the language model gave no usable reply")
    swaps = tuple((a, b) for a, b in reply.swaps if a != b)
    if not reply.possible or not swaps or len({a for a, _ in swaps}) != len(swaps):
        return SwapDecision(False, (), reply.reason or "refused")
    return SwapDecision(True, swaps, reply.reason)


def record(path: str | None, question: str, answer: str | None) -> None:
    """Appends one exchange to a transcript."""
    if path is None:
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("a") as file:
        file.write(json.dumps({"question": question, "answer": answer}) + "\n")
