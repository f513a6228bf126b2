"""Words to integers: a closed vocabulary for the compact models, and OpenAI's byte-pair encoding for CLIP and SD 1.5.

Both are called alike: ``tokenizer(["The robot is grasping the red object"]) -> int32 [1, L]``.

A closed vocabulary refuses a word that it does not have, because a text encoder that silently maps "crimson" to an
unknown token would silently answer for another colour.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from daag_jax.names import nearest

PAD, EOS, BOS = 0, 1, 2
SPECIAL = ("<pad>", "<eos>", "<bos>")
# Append only: the index of a word is part of every trained checkpoint.
WORDS = """
the a an is are was on in of at to from with and or not no into onto top above below under over
next near left right front behind back beside between inside outside up down all both two three
four one each other same robot gripper hand arm finger fingers block blocks cube cubes object
objects brick box ball moon star pentagon hexagon heart table floor wall walls room basket
workspace scene camera view background ground empty nothing red green blue yellow purple orange
cyan pink black white gray grey brown silver gold dark bright light crimson scarlet lime
emerald navy azure violet magenta turquoise teal amber rose grasp grasping grasped grasps stack
stacking stacked stacks pick picking picked place placing placed put putting lift lifting
lifted hold holding held push pushing pushed move moving moved reach reaching touch touching go
find open close opened closed stand standing lie lying photo picture image rendering render
video frame simulation simulated realistic clean plain textured wooden metal plastic rubber
glossy matte shiny small large big tall tower pile door key chest drawer handle ladder window
bed chair lamp shelf cup bowl plate lid button lever sponge
"""
VOCABULARY: tuple[str, ...] = tuple(WORDS.split())
CLIP_PATTERN = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class UnknownWordError(ValueError):
    """A text holds a word that the closed vocabulary does not have."""


@dataclass(frozen=True)
class WordTokenizer:
    """Lower-cased words of a closed vocabulary: <bos> words <eos> <pad>..., to ``context_length`` tokens."""

    context_length: int = 16
    words: tuple[str, ...] = VOCABULARY

    @property
    def vocab_size(self) -> int:
        """Special tokens and words."""
        return len(SPECIAL) + len(self.words)

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """Token ids of each text.

        Raises:
            UnknownWordError: a word is not in the vocabulary.
            ValueError: a text is longer than the context, or a single string was given.
        """
        check_texts(texts)
        index = {word: i for i, word in enumerate(SPECIAL + self.words)}
        ids = []
        for text in texts:
            words = re.findall(r"[a-z0-9]+", text.lower())
            for word in words:
                if word not in index:
                    raise UnknownWordError(unknown(word, text, self.words))
            ids.append([BOS, *(index[word] for word in words), EOS])
        return pad(ids, texts, self.context_length, PAD)

    def decode(self, tokens: Int[np.ndarray, "L"]) -> str:
        """The words of one row of token ids."""
        vocabulary = SPECIAL + self.words
        return " ".join(vocabulary[t] for t in tokens.tolist() if t >= len(SPECIAL))


@dataclass(frozen=True)
class BytePairTokenizer:
    """CLIP's byte-pair encoding: <|startoftext|> pieces <|endoftext|>, padded to ``context_length`` tokens."""

    encoder: Any  # a tokenizers.Tokenizer
    context_length: int = 77
    pad_id: int = 49407  # OpenAI pads with <|endoftext|>

    def __call__(self, texts: Sequence[str]) -> Int[np.ndarray, "B L"]:
        """Token ids of each text; raises ValueError when one is longer than the context."""
        check_texts(texts)
        ids = [encoding.ids for encoding in self.encoder.encode_batch(list(texts))]
        return pad(ids, texts, self.context_length, self.pad_id)


def load_tokenizer(folder: str | Path, context_length: int = 77) -> BytePairTokenizer:
    """Reads CLIP's tokenizer from a Hugging Face folder: ``tokenizer.json``, or ``vocab.json`` with ``merges.txt``.

    Raises:
        FileNotFoundError: the folder has neither.
        ValueError: the files are not those of a CLIP tokenizer.
    """
    from tokenizers import Tokenizer

    folder = Path(folder)
    if (folder / "tokenizer.json").is_file():
        encoder = Tokenizer.from_file(str(folder / "tokenizer.json"))
        encoder.no_padding()
        encoder.no_truncation()
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        encoder = from_merges(folder / "vocab.json", folder / "merges.txt")
    else:
        raise FileNotFoundError(
            f"{folder} holds neither tokenizer.json nor vocab.json with merges.txt; name the `tokenizer` folder of "
            "Stable Diffusion 1.5, or the folder of clip-vit-base-patch32."
        )
    end = encoder.token_to_id("<|endoftext|>")
    if end is None or encoder.token_to_id("<|startoftext|>") is None:
        raise ValueError(
            f"{folder} is not a CLIP tokenizer: it has no <|startoftext|> or no <|endoftext|>."
        )
    return BytePairTokenizer(encoder, context_length, end)


def from_merges(vocab: Path, merges: Path) -> Any:
    """CLIP's tokenizer from its two original files."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    bpe = models.BPE.from_file(
        str(vocab), str(merges), unk_token="<|endoftext|>", end_of_word_suffix="</w>"
    )
    encoder = Tokenizer(bpe)
    encoder.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Lowercase(),
        ]
    )
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_PATTERN), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = (encoder.token_to_id(t) for t in ("<|startoftext|>", "<|endoftext|>"))
    if start is None or end is None:
        raise ValueError(f"{vocab} is not CLIP's vocabulary: no <|startoftext|> or <|endoftext|>.")
    encoder.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", end),
        ("<|startoftext|>", start),
        add_prefix_space=False,
        trim_offsets=False,
    )
    return encoder


def check_texts(texts: Sequence[str]) -> None:
    """Refuses a bare string, which would be read letter by letter."""
    if isinstance(texts, str):
        raise ValueError(f"texts is the single string {texts!r}; give a list of strings.")


def unknown(word: str, text: str, words: Sequence[str]) -> str:
    """The message for a word outside the vocabulary."""
    return (
        f"the word {word!r} of {text!r} is not in the vocabulary of the compact text encoder; "
        f"the nearest word is {nearest(word, words)!r}. Say it in its {len(words)} words, or use a byte-pair tokenizer."
    )


def pad(ids: list[list[int]], texts: Sequence[str], length: int, pad_id: int) -> np.ndarray:
    """Rows of equal length; refuses a text that does not fit rather than cutting its end."""
    for row, text in zip(ids, texts, strict=True):
        if len(row) > length:
            raise ValueError(
                f"{text!r} has {len(row)} tokens with its start and end, and context_length is {length}; shorten it."
            )
    return np.array([row + [pad_id] * (length - len(row)) for row in ids], np.int32).reshape(
        len(ids), length
    )
