"""Captions to token ids: a Hugging Face tokenizer.json, a SentencePiece model, or a byte-level BPE
trained on the captions themselves.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from active_learning.data.sources.source import DataError

KEY = "config.task.tokenizer"
PAD, END = "<pad>", "<end>"


@dataclass(frozen=True)
class Tokenizer:
    """ids: texts -> lists of token ids without end; end closes each text and pad fills it up
    (SentencePiece models fill up with the end).
    """

    ids: Callable[[Sequence[str]], list[list[int]]]
    size: int  # of the vocabulary
    pad: int
    end: int
    about: str  # hash of the file, for provenance

    def encode(
        self, texts: Sequence[str], context: int
    ) -> tuple[Int32[np.ndarray, "n context"], int]:
        """Token ids, cut to `context` with the end in the last place where a text is too long, and
        how many were cut.
        """
        out, cut = np.full((len(texts), context), self.pad, np.int32), 0
        for row, ids in enumerate(self.ids(texts)):
            cut += len(ids) + 1 > context
            ids = [*ids[: context - 1], self.end]
            out[row, : len(ids)] = ids
        return out, cut


def train(texts: Iterable[str], size: int) -> bytes:
    """A byte-level BPE of at most `size` tokens on lower-cased texts, as the content of a
    tokenizer.json; the same texts give the same bytes.

    Needs no vocabulary: every byte is a token, so that no text is unknown.
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


def load(path: str) -> Tokenizer:
    """The tokenizer of a file NAME.json or NAME.model.

    Raises DataError naming it when it is neither or cannot be read.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"{KEY}={path!r}: no such file")
    read = {".json": of_json, ".model": of_sentencepiece}.get(file.suffix)
    if read is None:
        raise DataError(
            f"{KEY}={path!r}: expected a Hugging Face tokenizer.json or a SentencePiece NAME.model"
        )
    try:
        return read(file.read_bytes())
    except DataError:
        raise
    except Exception as error:  # the libraries raise bare Exception and RuntimeError
        raise DataError(f"{KEY}={path!r}: cannot be read ({str(error).splitlines()[0]})") from error


def of_json(blob: bytes) -> Tokenizer:
    """A tokenizer.json.

    Its end is the token that CLIP, T5 or `train` close a text with; without a padding token the end
    pads.
    """
    made = _library("tokenizers").Tokenizer.from_str(blob.decode())
    made.no_truncation()
    made.no_padding()
    found = [made.token_to_id(name) for name in (END, "<|endoftext|>", "</s>", "[SEP]", "<eos>")]
    end = next((i for i in found if i is not None), None)
    if end is None:
        raise DataError(
            f"{KEY}: no token that ends a text ({END}, <|endoftext|>, </s>, [SEP] or <eos>)"
        )
    pads = [made.token_to_id(name) for name in (PAD, "[PAD]")]
    pad = next((i for i in pads if i is not None), end)

    def ids(texts: Sequence[str]) -> list[list[int]]:
        return [found.ids for found in made.encode_batch(list(texts), add_special_tokens=False)]

    return Tokenizer(ids, made.get_vocab_size(), pad, end, _hash(blob))


def of_sentencepiece(blob: bytes) -> Tokenizer:
    """A SentencePiece model; filled up with its end, as SigLIP's texts are."""
    made = _library("sentencepiece").SentencePieceProcessor(model_proto=blob)
    end = made.eos_id()
    if end < 0:
        raise DataError(f"{KEY}: the SentencePiece model has no end-of-sentence token")
    return Tokenizer(
        lambda texts: made.encode(list(texts)), made.vocab_size(), end, end, _hash(blob)
    )


def _hash(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()[:16]


def _library(name: str):
    import importlib

    try:
        if name == "tokenizers":
            for part in ("models", "normalizers", "pre_tokenizers", "decoders", "trainers"):
                importlib.import_module(f"tokenizers.{part}")
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            f"{KEY}: reading it needs the package {name}: pip install -e '.[text]'"
        ) from error
