"""SentencePiece models behind `Tokenizer`. The library is imported late: reading a prepared data set needs none."""

from pathlib import Path

from data_pipeline.errors import UserError


class SentencePieceModel:
    """A SentencePiece model: its unknown, begin and end tokens are those of its own."""

    def __init__(self, content: bytes, path: Path) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(content)
        except (RuntimeError, UnicodeDecodeError) as error:  # the second: a message of bytes that are no text
            raise UserError(
                f"{path} is not a SentencePiece model; give one, or a tokenizer.json (or, if it is a data set's, "
                "prepare that again)"
            ) from error
        self.vocab_size: int = self._processor.vocab_size()
        self.bos_id: int = self._processor.bos_id()
        self.eos_id: int = self._processor.eos_id()
        self.unk_id: int = self._processor.unk_id()
        if self.bos_id < 0:
            raise UserError(f"{path} has no token for the begin of a text; give a model that was trained with a bos_id")

    def encode(self, text: str) -> list[int]:
        """Token ids."""
        return self._processor.encode(text)

    def encode_all(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each; given several texts at once the library would use threads."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: list[int]) -> str:
        """The text."""
        return self._processor.decode(ids)

    def pieces(self, ids: list[int]) -> list[str]:
        """SentencePiece's own."""
        return self._processor.id_to_piece(ids)

    def name(self, token: int) -> str:
        """Its piece."""
        return self._processor.id_to_piece(token)

    def token_bytes(self, token: int) -> bytes:
        """Of a piece, a byte, or nothing."""
        piece = self._processor.id_to_piece(token)
        if self._processor.is_byte(token):
            return bytes([int(piece[1:-1], 16)])
        if self._processor.is_control(token) or self._processor.is_unknown(token):
            return self._processor.decode([token]).encode()
        return piece.replace("\u2581", " ").encode()
