"""`python -m mlx_mistral` is `mlx-mistral`."""

import sys

from mlx_mistral.cli.main import main

sys.exit(main())
