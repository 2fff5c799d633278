"""Captions to token ids: the tokenizers of published models, or a BPE trained on the captions.

Reads a Hugging Face tokenizer.json, CLIP's vocab.json with merges.txt, and SentencePiece models, as
single files or as the folder of the weights that they belong to.
"""

import hashlib
import importlib
import json
import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from active_learning.config import ConfigError
from active_learning.data.sources.source import DataError

KEY = "config.task.tokenizer"
PAD, END = "<pad>", "<end>"
# What may end a text, where a file does not say: of `train`, CLIP, T5 and SigLIP, BERT, Gemma.
ENDS = (END, "<|endoftext|>", "</s>", "[SEP]", "<eos>")
PADS = (PAD, "[PAD]")
# Of a folder, the first that is there is read.
FILES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model", "sentencepiece.model")
# How CLIP cuts a text into words.
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Tokenizer:
    """Turns texts into rows of token ids of one length."""

    # Texts -> lists of token ids, without the tokens that open and close a text.
    ids: Callable[[Sequence[str]], list[list[int]]]
    # Of the vocabulary.
    size: int
    # Token that fills up short texts, and the one that closes each text.
    pad: int
    end: int
    # Hash of the file, for provenance.
    about: str
    # Tokens that open each text.
    begin: tuple[int, ...] = ()

    def encode(
        self, texts: Sequence[str], context: int
    ) -> tuple[Int32[np.ndarray, "n context"], int]:
        """Tokenizes texts; long ones are cut so that the end is in the last place.

        Args:
          texts: The texts.
          context: Length of the rows.

        Returns:
          The token ids, and how many texts were cut.
        """
        out, cut = np.full((len(texts), context), self.pad, np.int32), 0
        room = context - 1 - len(self.begin)
        for row, ids in enumerate(self.ids(texts)):
            cut += len(ids) > room
            ids = [*self.begin, *ids[:room], self.end]
            out[row, : len(ids)] = ids
        return out, cut


def train(texts: Iterable[str], size: int) -> bytes:
    """Trains a byte-level BPE on lower-cased texts; the same texts give the same bytes.

    Every byte is a token, so that no text is unknown.

    Args:
      texts: The texts.
      size: Largest number of tokens.

    Returns:
      The content of a tokenizer.json.
    """
    hf = _library("tokenizers")
    made = hf.Tokenizer(hf.models.BPE())
    made.normalizer = hf.normalizers.Sequence([hf.normalizers.NFKC(), hf.normalizers.Lowercase()])
    made.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = hf.decoders.ByteLevel()
    alphabet = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    trainer = hf.trainers.BpeTrainer(
        vocab_size=size, special_tokens=[PAD, END], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(sorted(set(texts)), trainer)
    return made.to_str().encode()


def check_tower(key: str, tower: Any, tokens: Tokenizer) -> None:
    """Refuses a text tower that cannot read what a tokenizer gives. Raises ConfigError."""
    if tokens.size > tower.vocab:
        raise ConfigError(f"{key}.vocab={tower.vocab}: the tokenizer has {tokens.size} tokens")
    if tower.pool == "mean" and tower.pad != tokens.pad:
        raise ConfigError(f"{key}.pad={tower.pad}: the tokenizer pads with {tokens.pad}")
    if tower.pool == "end" and tower.end not in (-1, tokens.end):
        raise ConfigError(f"{key}.end={tower.end}: the tokenizer ends texts with {tokens.end}")


def find(folder: Path) -> Path | None:
    """The tokenizer file in a folder of published weights, None where there is none."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def load(path: str) -> Tokenizer:
    """Reads a tokenizer.

    Args:
      path: A tokenizer.json, a vocab.json with merges.txt beside it, a SentencePiece NAME.model,
        or a folder with one of them. A tokenizer_config.json beside it says whether texts are
        lower-cased, and which token pads.

    Raises:
      DataError: Names the file that is none of these or cannot be read.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        found = find(file)
        if found is None:
            raise DataError(f"{KEY}={path!r}: none of {', '.join(FILES)} in that folder")
        file = found
    if not file.is_file():
        raise DataError(f"{KEY}={path!r}: no such file")
    try:
        settings = _settings(file.with_name("tokenizer_config.json"))
        if file.name == "vocab.json":
            return of_clip(file.read_bytes(), file.with_name("merges.txt").read_bytes(), settings)
        if file.suffix == ".json":
            return of_json(file.read_bytes(), settings)
        if file.suffix == ".model":
            return of_sentencepiece(file.read_bytes(), settings)
    except DataError:
        raise
    except Exception as error:  # The libraries raise bare Exception and RuntimeError.
        raise DataError(f"{KEY}={path!r}: cannot be read ({str(error).splitlines()[0]})") from error
    raise DataError(
        f"{KEY}={path!r}: expected a Hugging Face tokenizer.json, CLIP's vocab.json or a "
        "SentencePiece NAME.model"
    )


def _settings(file: Path) -> dict[str, Any]:
    settings = json.loads(file.read_text()) if file.is_file() else {}
    if not isinstance(settings, dict):
        raise DataError(f"{KEY}: {file}: holds no JSON object")
    return settings


def of_json(blob: bytes, settings: dict[str, Any] | None = None) -> Tokenizer:
    """A tokenizer.json.

    What opens and closes a text is what its post-processor adds; without one, a text ends with a
    token of `ENDS`. Without a padding token the end pads.

    Args:
      blob: Content of the file.
      settings: Content of tokenizer_config.json.

    Raises:
      DataError: No token ends a text.
    """
    made = _library("tokenizers").Tokenizer.from_str(blob.decode())
    return _of_library(made, _hash(blob, settings), settings or {})


def of_clip(vocab: bytes, merges: bytes, settings: dict[str, Any] | None = None) -> Tokenizer:
    """CLIP's byte-level BPE from its vocab.json and merges.txt."""
    hf = _library("tokenizers")
    ids = json.loads(vocab)
    begin, end = "<|startoftext|>", "<|endoftext|>"
    for token in (begin, end):
        if token not in ids:
            raise DataError(f"{KEY}: vocab.json has no token {token}")
    lines = merges.decode().splitlines()
    pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
    made = hf.Tokenizer(
        hf.models.BPE(
            vocab=ids,
            merges=pairs,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token="<|endoftext|>",
        )
    )
    made.normalizer = hf.normalizers.Sequence(
        [
            hf.normalizers.NFC(),
            hf.normalizers.Replace(hf.Regex(r"\s+"), " "),
            hf.normalizers.Lowercase(),
        ]
    )
    words = hf.pre_tokenizers.Split(hf.Regex(_CLIP_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = hf.pre_tokenizers.Sequence(
        [words, hf.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.post_processor = hf.processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, ids[begin]), (end, ids[end])]
    )
    return _of_library(made, _hash(vocab + merges, settings), settings or {})


def _of_library(made: Any, about: str, settings: dict[str, Any]) -> Tokenizer:
    """A tokenizer of the tokenizers library."""
    padding = made.padding
    made.no_truncation()
    made.no_padding()
    opening, closing = _added(made)
    if closing:
        end = closing[-1]
    else:
        ends = (_token(made, settings.get("eos_token")), *(made.token_to_id(e) for e in ENDS))
        end = next((token for token in ends if token is not None), None)
    if end is None:
        raise DataError(f"{KEY}: no token that ends a text ({', '.join(ENDS[:-1])} or {ENDS[-1]})")
    pads = (
        _token(made, settings.get("pad_token")),
        padding["pad_id"] if padding else None,
        *(made.token_to_id(name) for name in PADS),
    )
    pad = next((token for token in pads if token is not None), end)
    lower = bool(settings.get("do_lower_case")) and made.normalizer is None

    def ids(texts: Sequence[str]) -> list[list[int]]:
        lowered = [text.lower() if lower else text for text in texts]
        return [row.ids for row in made.encode_batch(lowered, add_special_tokens=False)]

    return Tokenizer(ids, made.get_vocab_size(), pad, end, about, opening)


def _added(made: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens that the post-processor puts before and after a text."""
    bare = made.encode("a", add_special_tokens=False).ids
    full = made.encode("a", add_special_tokens=True).ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return tuple(full[:start]), tuple(full[start + len(bare) :])
    return (), ()


def _token(made: Any, declared: Any) -> int | None:
    """Id of a token of tokenizer_config.json, which spells it as text or as {'content': text}."""
    text = declared.get("content") if isinstance(declared, dict) else declared
    return made.token_to_id(text) if isinstance(text, str) else None


def of_sentencepiece(blob: bytes, settings: dict[str, Any] | None = None) -> Tokenizer:
    """A SentencePiece model.

    Texts end with its end of sentence, which also fills them up (SigLIP), unless the settings name
    another padding token (Gemma: <pad>). Where the settings are those of SigLIP, texts are
    lower-cased and lose their punctuation, as that model was trained.

    Args:
      blob: Content of the file.
      settings: Content of tokenizer_config.json.

    Raises:
      DataError: The model has no end of sentence.
    """
    settings = settings or {}
    made = _library("sentencepiece").SentencePieceProcessor(model_proto=blob)
    end = made.eos_id()
    if end < 0:
        raise DataError(f"{KEY}: the SentencePiece model has no end-of-sentence token")
    kind = str(settings.get("tokenizer_class", ""))
    is_siglip = kind.startswith("Siglip")
    lower = bool(settings.get("do_lower_case", is_siglip))
    pad = end
    if kind.startswith("Gemma"):
        said = settings.get("pad_token", PAD)
        pad_id = made.piece_to_id(said["content"] if isinstance(said, dict) else str(said))
        pad = end if pad_id == made.unk_id() else pad_id

    def clean(text: str) -> str:
        text = text.lower() if lower else text
        if is_siglip:
            text = re.sub(r"\s+", " ", text.translate(_PUNCTUATION)).strip()
        return text

    def ids(texts: Sequence[str]) -> list[list[int]]:
        return made.encode([clean(text) for text in texts])

    return Tokenizer(ids, made.vocab_size(), pad, end, _hash(blob, settings))


def _hash(blob: bytes, settings: dict[str, Any] | None = None) -> str:
    """Hash of a tokenizer's files; that of a file alone does not depend on there being settings."""
    more = json.dumps(settings, sort_keys=True).encode() if settings else b""
    return hashlib.sha256(blob + more).hexdigest()[:16]


def _library(name: str) -> Any:
    parts = ("models", "normalizers", "pre_tokenizers", "decoders", "trainers", "processors")
    try:
        if name == "tokenizers":
            for part in parts:
                importlib.import_module(f"tokenizers.{part}")
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"{KEY}: reading it needs the package {name}: pip install -e '.[text]'"
        ) from error
