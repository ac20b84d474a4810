"""Short names for Mistral's open-weight models."""

from __future__ import annotations

ALIASES = {
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "mistral-7b-v0.1": "mistralai/Mistral-7B-Instruct-v0.1",
    "mistral-7b-v0.2": "mistralai/Mistral-7B-Instruct-v0.2",
    "mistral-7b-v0.3": "mistralai/Mistral-7B-Instruct-v0.3",
    "mathstral": "mistralai/mathstral-7B-v0.1",
    "mixtral-8x7b": "mistralai/Mixtral-8x7B-Instruct-v0.1",
    "mixtral-8x22b": "mistralai/Mixtral-8x22B-Instruct-v0.1",
    "nemo": "mistralai/Mistral-Nemo-Instruct-2407",
    "codestral": "mistralai/Codestral-22B-v0.1",
    "pixtral-12b": "mistralai/Pixtral-12B-2409",
    "ministral-8b": "mistralai/Ministral-8B-Instruct-2410",
    "ministral-3b": "mistralai/Ministral-3-3B-Instruct-2512",
    "ministral-3-3b": "mistralai/Ministral-3-3B-Instruct-2512",
    "ministral-3-8b": "mistralai/Ministral-3-8B-Instruct-2512",
    "ministral-3-14b": "mistralai/Ministral-3-14B-Instruct-2512",
    "small": "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    "small-22b": "mistralai/Mistral-Small-Instruct-2409",
    "small-3": "mistralai/Mistral-Small-24B-Instruct-2501",
    "small-3.1": "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
    "small-3.2": "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
    "magistral": "mistralai/Magistral-Small-2509",
    "devstral": "mistralai/Devstral-Small-2-24B-Instruct-2512",
    "devstral-2": "mistralai/Devstral-2-123B-Instruct-2512",
    "large": "mistralai/Mistral-Large-Instruct-2411",
    "large-2": "mistralai/Mistral-Large-Instruct-2407",
    "medium-3.5": "mistralai/Mistral-Medium-3.5-128B",
}
"""Alias to Hub repository: of each family the instruction-tuned model, sizes and versions named."""
