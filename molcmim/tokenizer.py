"""Tokenizer: SMILES and SELFIES strings <-> token ids, lossless or an error. Knows no RDKit and no files.

The format of record is a Hugging Face fast tokenizer (`tokenizers/<name>/tokenizer.json`): a vocabulary of
whole symbols (`Cl`, `[nH]`, `[Branch1]`) above every printable ASCII character, so that any molecule string
has an encoding. `Codec` is its twin for bulk work: the same ids, without transformers, about thirty times as
fast.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from molcmim import folders

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<s>", "</s>", "<unk>"
SPECIAL_TOKENS = (PAD, BOS, EOS, UNK)
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)
ASCII = tuple(chr(code) for code in range(0x21, 0x7F))
MODEL_MAX_LENGTH = 512

_SMILES_SYMBOL = re.compile(r"\[[^\[\]]+\]|Cl|Br|%\d\d")
_SELFIES_SYMBOL = re.compile(r"\[[^\[\]]+\]")


def build_smiles_tokenizer(strings: Iterable[str], min_count: int = 5) -> PreTrainedTokenizerFast:
    """Build the SMILES tokenizer: `Cl`, `Br`, each `%nn` seen, and each bracket atom seen often is one token.

    Parameters
    ----------
    strings
        SMILES whose symbols are counted (streamed, never held).
    min_count
        Bracket atoms seen less often are spelled character by character.

    Returns
    -------
    PreTrainedTokenizerFast
        Adds `<s>` and `</s>`; `model_max_length` 512.

    Raises
    ------
    ValueError
        If the vocabulary reaches 256 entries (stores keep one byte per token): raise `min_count`.
    """
    counts = Counter(symbol for string in strings for symbol in _SMILES_SYMBOL.findall(string))
    symbols = ["Cl", "Br", *sorted(symbol for symbol in counts if symbol[0] == "%")]
    symbols += _often(counts, min_count)
    return _build(symbols, "smiles")


def build_selfies_tokenizer(strings: Iterable[str], min_count: int = 5) -> PreTrainedTokenizerFast:
    """Build the SELFIES tokenizer: each symbol seen often is one token, the rest are spelled by character.

    `strings` are SELFIES, as `smiles_to_selfies` writes them; parameters, result and errors as in
    `build_smiles_tokenizer`.
    """
    counts = Counter(symbol for string in strings for symbol in _SELFIES_SYMBOL.findall(string))
    return _build(_often(counts, min_count), "selfies")


def _often(counts: Counter[str], min_count: int) -> list[str]:
    often = [symbol for symbol in counts if symbol[0] == "[" and counts[symbol] >= min_count]
    return sorted(often, key=lambda symbol: (-counts[symbol], symbol))


def _build(symbols: list[str], notation: str) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    import tokenizers

    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *ASCII, *symbols])}
    if len(vocab) >= 256:
        raise ValueError(f"the vocabulary has {len(vocab)} entries, 255 fit into one byte; raise min_count")
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocab, unk_token=UNK))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_pattern(vocab)), "isolated")
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, BOS_ID), (EOS, EOS_ID)]
    )
    backend.decoder = tokenizers.decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_max_length=MODEL_MAX_LENGTH,
        model_input_names=["input_ids", "attention_mask"],
        notation=notation,
    )


def _pattern(vocab: Iterable[str]) -> str:
    """Regular expression that splits a string: the symbols, longest first, then any one character."""
    return "|".join([*map(re.escape, _symbols(vocab)), "."])


def _symbols(vocab: Iterable[str]) -> list[str]:
    return sorted((t for t in vocab if len(t) > 1 and t not in SPECIAL_TOKENS), key=lambda t: (-len(t), t))


def load_tokenizer(name_or_path: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """Load a tokenizer from a folder, or by name ("smiles", "selfies").

    `molcmim.folders.find` says where a name is looked for.

    Raises
    ------
    FileNotFoundError
        If there is no such tokenizer; the message lists what was looked at.
    ValueError
        If the folder holds another kind of tokenizer, or a damaged one.
    """
    from transformers import PreTrainedTokenizerFast

    folder = folders.find("tokenizers", name_or_path, "tokenizer.json")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    except Exception as error:  # the library behind it raises that, and nothing else
        raise ValueError(f"the tokenizer in {folder} is damaged ({error}); copy it again") from error
    Codec.of(tokenizer)
    return tokenizer


def notation_of(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the notation that a tokenizer of ours reads: "smiles" or "selfies"."""
    return str(tokenizer.init_kwargs.get("notation", "smiles"))


def vocab_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the SHA-256 (hex) of the sorted (token, id) list, on which store and checkpoint must agree."""
    return hashlib.sha256(json.dumps(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


class Codec:
    """Encode many strings at once: the ids of the Hugging Face tokenizer, without its cost.

    Symbols of several characters are replaced by one private character each, then a table maps characters to
    ids.

    Parameters
    ----------
    vocab
        Token -> id, with the special tokens and every single character that may occur.
    """

    def __init__(self, vocab: Mapping[str, int]) -> None:
        self.vocab = dict(vocab)
        self.dtype = np.dtype(np.uint8 if max(self.vocab.values()) < 256 else np.uint16)
        self._private = {symbol: chr(0x100 + i) for i, symbol in enumerate(_symbols(self.vocab))}
        self._regex = re.compile("|".join(map(re.escape, self._private)) or r"(?!)")
        table = np.full(0x101 + len(self._private), UNK_ID, dtype=self.dtype)
        for token, i in self.vocab.items():
            if token not in SPECIAL_TOKENS:
                table[ord(self._private.get(token, token))] = i
        table[ord("\n")] = EOS_ID
        self._table = table

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast) -> Codec:
        """Return the codec of a tokenizer; ValueError if it is not one that this module builds."""
        return _codec(tokenizer.backend_tokenizer.to_str())

    def encode(self, strings: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode strings, each as `<s> ... </s>`.

        Returns
        -------
        ids : ndarray of uint8 (uint16 above 255 tokens), shape (total,)
            All token ids, one string after the other.
        offsets : ndarray of int64, shape (n + 1,)
            String i is `ids[offsets[i]:offsets[i + 1]]`.

        Raises
        ------
        ValueError
            If a string holds a character that no token covers (white space, not ASCII): row and character.
        """
        if not len(strings):
            return np.zeros(0, self.dtype), np.zeros(1, np.int64)
        text = "\n".join(strings) + "\n"
        if not text.isascii() or text.count("\n") != len(strings):
            self._refuse(strings)
        text = self._shorten(text)
        body = self._table[np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)]
        if (body == UNK_ID).any():
            self._refuse(strings)
        ends = np.flatnonzero(body == EOS_ID)
        offsets = np.concatenate([[0], ends + 1 + np.arange(1, len(ends) + 1)]).astype(np.int64)
        return np.insert(body, np.concatenate([[0], ends[:-1] + 1]), BOS_ID), offsets

    def count(self, string: str) -> int:
        """Return how many tokens a string makes, `<s>` and `</s>` included."""
        return len(self._shorten(string)) + 2

    def _shorten(self, text: str) -> str:
        """Put one private character for each symbol of several."""
        return self._regex.sub(lambda match: self._private[match.group()], text)

    def _refuse(self, strings: Sequence[str]) -> None:
        for row, string in enumerate(strings):
            for character in string:
                if character not in self.vocab:
                    raise ValueError(f"row {row}: {string!r} holds {character!r}, for which there is no token")


@functools.lru_cache(maxsize=8)
def _codec(backend: str) -> Codec:
    parts: dict[str, Any] = json.loads(backend)
    vocab = parts["model"].get("vocab")
    pattern = (parts.get("pre_tokenizer") or {}).get("pattern", {}).get("Regex")
    if not isinstance(vocab, dict) or pattern != _pattern(vocab):
        raise ValueError("not a molcmim tokenizer: it splits strings in another way than at its vocabulary")
    if any(vocab.get(token) != i for i, token in enumerate(SPECIAL_TOKENS)):
        raise ValueError(f"not a molcmim tokenizer: {', '.join(SPECIAL_TOKENS)} must have ids 0 to 3")
    return Codec(vocab)


def smiles_to_selfies(smiles: str) -> str:
    """Translate SMILES to SELFIES; ValueError with the reason where SELFIES has no word for the molecule."""
    import selfies

    try:
        return selfies.encoder(smiles) or ""
    except (selfies.EncoderError, KeyError) as error:  # KeyError: an aromatic bond of an atom never aromatic
        raise ValueError("no SELFIES: " + " ".join(str(error).split())) from error


def selfies_to_smiles(string: str) -> str:
    """Translate SELFIES to SMILES (not canonical); ValueError if it is no SELFIES.

    Valences are limited to the library's defaults, and where it has none to RDKit's: whatever symbols follow each
    other, the result can be read. The process's own setting of these limits is left as it was.
    """
    import selfies

    before = selfies.get_semantic_constraints()
    selfies.set_semantic_constraints({**selfies.get_preset_constraints("default"), **_VALENCES})
    try:
        return selfies.decoder(string) or ""
    except selfies.DecoderError as error:
        raise ValueError(f"not SELFIES: {string!r}") from error
    finally:
        selfies.set_semantic_constraints(before)


_VALENCES = {"Si": 4, "Se": 6}
