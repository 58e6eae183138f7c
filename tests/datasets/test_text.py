from __future__ import annotations

from pathlib import Path

import pytest
from media_files import save_tokenizer

from lfm_ray.datasets.media.text import TextSettings, dtype, tokens, vocabulary_and_padding
from lfm_ray.errors import UserError


def test_bytes_plus_one_cut_or_padded() -> None:
    assert tokens("aé", TextSettings(length=5)).tolist() == [98, 0xC3 + 1, 0xA9 + 1, 0, 0]
    assert tokens("abc", TextSettings(length=2)).tolist() == [98, 99]
    assert tokens("abc", TextSettings(length=2)).dtype == dtype(TextSettings()) == "int16"
    assert vocabulary_and_padding(TextSettings()) == (257, 0)


def test_a_tokenizer_from_a_folder_with_its_own_padding(tmp_path: Path) -> None:
    settings = TextSettings(length=6, tokenizer=save_tokenizer(tmp_path, pad_token="[PAD]"))
    found = tokens("good odd film", settings)
    assert found.tolist() == [0, 4, 2, 6, 1, 3]
    assert found.dtype == "int32"
    assert vocabulary_and_padding(settings) == (7, 3)
    longer = tokens("good bad film good", settings.model_copy(update={"length": 4}))
    assert longer.tolist() == [0, 4, 5, 1]  # cut, and still closed by [SEP]


def test_a_tokenizer_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=r"text\.tokenizer: .*nothing.* cannot be loaded, from a folder or") as raised:
        tokens("x", TextSettings(tokenizer=str(tmp_path / "nothing")))
    assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match="no padding token"):
        tokens("x", TextSettings(tokenizer=save_tokenizer(tmp_path / "without")))
