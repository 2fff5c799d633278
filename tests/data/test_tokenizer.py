"""Token ids from three kinds of tokenizers, and captions drawn, exchanged and named."""

import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers
from tokenizers import pre_tokenizers, processors

from active_learning.data import captions, tokenizer
from active_learning.data.sources.source import DataError

TEXTS = ["A dog runs.", "Two dogs run in the snow!", "a boy in a red shirt"]


@pytest.fixture(scope="module")
def blob():
    return tokenizer.train(TEXTS * 5, 290)


def test_a_trained_tokenizer_is_a_function_of_its_texts(blob):
    assert tokenizer.train(list(reversed(TEXTS)), 290) == blob
    made = tokenizer.of_json(blob)
    assert made.size <= 290
    assert (made.pad, made.end) == (0, 1)


def test_every_text_is_closed_and_filled_up(blob):
    made = tokenizer.of_json(blob)
    tokens, cut = made.encode(["a dog", "日本 ☃"], 16)
    assert cut == 0
    for row in tokens:
        end = int(np.flatnonzero(row == made.end)[0])
        assert (row[end + 1 :] == made.pad).all()
        assert (row[:end] > 1).all()
    np.testing.assert_array_equal(made.encode(["A DOG"], 16)[0], tokens[:1])


def test_long_texts_are_cut_counted_and_still_closed(blob):
    made = tokenizer.of_json(blob)
    tokens, cut = made.encode(["a dog " * 20, "a"], 6)
    assert cut == 1
    assert tokens[0, -1] == made.end


def test_files_of_both_kinds_are_read_by_name(tmp_path, blob):
    (tmp_path / "tokenizer.json").write_bytes(blob)
    assert tokenizer.load(str(tmp_path / "tokenizer.json")).about == tokenizer.of_json(blob).about
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 9), model_writer=out, vocab_size=28, minloglevel=2
    )
    (tmp_path / "sp.model").write_bytes(out.getvalue())
    made = tokenizer.load(str(tmp_path / "sp.model"))
    tokens, _ = made.encode(["a dog"], 10)
    assert made.pad == made.end == tokens[0, -1]
    assert made.size == 28


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("x.txt", b"", "expected a Hugging Face"), ("x.json", b"{", "cannot be read")],
)
def test_what_is_no_tokenizer_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        tokenizer.load(str(tmp_path / name))
    with pytest.raises(DataError, match="no such file"):
        tokenizer.load(str(tmp_path / "nothing.json"))


def write_clip(folder):
    """A CLIP vocabulary as its publisher writes it: bytes, bytes that end a word, and merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = ["d o", "do g</w>", "r u", "ru n", "run s</w>"]
    tokens = [*alphabet, *(f"{c}</w>" for c in alphabet), *(m.replace(" ", "") for m in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return vocab


def test_clips_vocabulary_lower_cases_and_opens_and_closes_a_text(tmp_path):
    vocab = write_clip(tmp_path)
    made = tokenizer.load(str(tmp_path))
    tokens, cut = made.encode(["A  DOG\nruns!", "dog " * 9], 8)
    words = ["a</w>", "dog</w>", "runs</w>", "!</w>"]
    begin, end = vocab["<|startoftext|>"], vocab["<|endoftext|>"]
    assert tokens[0].tolist() == [begin, *(vocab[w] for w in words), end, end, end]
    assert tokens[1].tolist() == [begin, *[vocab["dog</w>"]] * 6, end]
    assert (cut, made.pad, made.size) == (1, end, len(vocab))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "!"}}))
    assert tokenizer.load(str(tmp_path)).pad == vocab["!"]
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(DataError, match=r"vocab.json has no token <\|startoftext"):
        tokenizer.load(str(tmp_path))


def sentencepiece_model(vocab_size=26, **fields) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([t.lower() for t in TEXTS] * 9),
        model_writer=out,
        vocab_size=vocab_size,
        minloglevel=2,
        **fields,
    )
    return out.getvalue()


def test_siglips_sentencepiece_lower_cases_and_drops_punctuation(tmp_path):
    (tmp_path / "spiece.model").write_bytes(sentencepiece_model())
    bare = tokenizer.load(str(tmp_path))
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>"}))
    made = tokenizer.load(str(tmp_path))
    spoken, plain = made.encode(["A  Dog, runs!"], 16)[0], bare.encode(["a dog runs"], 16)[0]
    np.testing.assert_array_equal(spoken, plain)
    assert made.pad == made.end == spoken[0, -1]
    assert made.about != bare.about


def test_gemmas_sentencepiece_has_a_padding_token_of_its_own(tmp_path):
    blob = sentencepiece_model(pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>")
    (tmp_path / "tokenizer.model").write_bytes(blob)
    settings = {"tokenizer_class": "GemmaTokenizer", "pad_token": "<pad>", "do_lower_case": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    made = tokenizer.load(str(tmp_path))
    tokens, _ = made.encode(["A DOG"], 12)
    assert (made.pad, made.end) == (0, 1)
    assert tokens[0, -1] == 0 and (tokens == 1).sum() == 1
    np.testing.assert_array_equal(tokens, made.encode(["a dog"], 12)[0])


def test_what_a_post_processor_adds_is_added(blob):
    library = tokenizers.Tokenizer.from_str(blob.decode())
    library.post_processor = processors.TemplateProcessing(
        single="<pad> $A <end>", special_tokens=[("<pad>", 0), ("<end>", 1)]
    )
    library.enable_padding(pad_id=7, pad_token="x")
    library.enable_truncation(4)
    made = tokenizer.of_json(library.to_str().encode())
    assert (made.begin, made.end, made.pad) == ((0,), 1, 7)
    tokens, _ = made.encode(["a dog runs"], 30)
    plain, _ = tokenizer.of_json(blob).encode(["a dog runs"], 30)
    assert tokens[0, 0] == 0
    end = plain[0].tolist().index(1)
    np.testing.assert_array_equal(tokens[0, 1 : end + 2], plain[0, : end + 1])
    assert (tokens[0, end + 2 :] == 7).all()


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none of tokenizer.json, vocab.json"):
        tokenizer.load(str(tmp_path))


def test_captions_are_drawn_evenly_and_by_id_and_epoch(blob):
    values = captions.tokenize(
        [["a dog", "two dogs", "snow"], ["a boy"]], tokenizer.of_json(blob), 8
    )
    n = 3000
    drawn = values.draw(np.zeros(n, np.int64), np.arange(n), np.zeros(n, np.int64))
    shares = [np.mean((drawn == values.tokens[0, k][None]).all(axis=1)) for k in range(3)]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)
    assert values.drawn_text(np.array([1]), np.array([5]), np.array([2])) == ["a boy"]
    alone = values.draw(np.array([0]), np.array([17]), np.array([0]))
    np.testing.assert_array_equal(alone[0], drawn[17])


def test_exchanged_captions_are_a_circle_of_exactly_the_share():
    ids = np.arange(1000) * 7
    given = captions.shuffled(ids, 0.4)
    moved = given != np.arange(1000)
    assert moved.sum() == 400
    np.testing.assert_array_equal(np.sort(given), np.arange(1000))
    np.testing.assert_array_equal(captions.shuffled(ids, 0.0), np.arange(1000))
    assert (captions.shuffled(ids, 0.4, seed=1) != given).any()


def test_classes_are_what_most_captions_name():
    texts = [
        ["A dog runs.", "two dogs", "it runs"],
        ["a boy and a dog", "boy, dog", "dog boy"],
        ["snow", "ice", "cold"],
    ]
    np.testing.assert_array_equal(captions.mentioned(texts, ("dog", "boy")), [0, -1, -1])
