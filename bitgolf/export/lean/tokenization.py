"""The tokenizer for transformers: `AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)`."""

import shutil
from pathlib import Path

from transformers import PreTrainedTokenizer

from bitgolf.text.encoder import Encoder
from bitgolf.text.tokenizer import Tokenizer


class BitgolfTokenizer(PreTrainedTokenizer):
    """Ids of any text, and the text of any ids. A document opens with its start token, where there is one."""

    vocab_files_names = {"vocab_file": "tokenizer.bin"}
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(self, vocab_file: str, **others: object) -> None:
        self.vocab_file = vocab_file
        self.ids = Encoder(Tokenizer.load(vocab_file))
        self.names = self.ids.names()
        self.numbers = {name: number for number, name in enumerate(self.names)}
        # A text that looks like a special token is text: what it is typed in has all bytes.
        super().__init__(**{"split_special_tokens": True, **others})

    @property
    def vocab_size(self) -> int:
        """How many ids there are."""
        return len(self.names)

    def get_vocab(self) -> dict[str, int]:
        """Every token by its name."""
        return self.numbers | self.added_tokens_encoder

    def _tokenize(self, text: str, **others: object) -> list[str]:
        return [self.names[number] for number in self.ids.encode(text.encode("utf-8", "replace"))]

    def _convert_token_to_id(self, token: str) -> int:
        return self.numbers.get(token, self.ids.tokenizer.unknown)

    def _convert_id_to_token(self, index: int) -> str:
        return self.names[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens; bytes that are no UTF-8 become marks."""
        numbers = [self.numbers[token] for token in tokens]
        return self.ids.tokenizer.decode(numbers).decode("utf-8", "replace")

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """A document, and another one after it."""
        start = [self.ids.tokenizer.bos] if self.ids.tokenizer.bos >= 0 else []
        return start + token_ids_0 + (start + token_ids_1 if token_ids_1 else [])

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """A copy of its file."""
        path = Path(save_directory) / f"{filename_prefix or ''}tokenizer.bin"
        if path.absolute() != Path(self.vocab_file).absolute():
            shutil.copyfile(self.vocab_file, path)
        return (str(path),)
