"""Token ids from three kinds of tokenizers, and captions drawn, exchanged and named."""

import io

import numpy as np
import pytest

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
    import sentencepiece

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


def test_captions_are_drawn_evenly_and_by_id_and_epoch(blob):
    those = captions.tokenize(
        [["a dog", "two dogs", "snow"], ["a boy"]], tokenizer.of_json(blob), 8
    )
    n = 3000
    drawn = those.draw(np.zeros(n, np.int64), np.arange(n), np.zeros(n, np.int64))
    shares = [np.mean((drawn == those.tokens[0, k][None]).all(axis=1)) for k in range(3)]
    np.testing.assert_allclose(shares, 1 / 3, atol=0.04)
    assert those.drawn_text(np.array([1]), np.array([5]), np.array([2])) == ["a boy"]
    alone = those.draw(np.array([0]), np.array([17]), np.array([0]))
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
