"""Text and chats to token ids, and token ids back to text."""

from mlx_mistral.text.stream import StreamDecoder
from mlx_mistral.text.tokenizer import Tokenizer, load_tokenizer

__all__ = ["StreamDecoder", "Tokenizer", "load_tokenizer"]
