"""`python -m launcher`: the same as `llama-dist`, for where no script is installed."""

from launcher.cli import main

if __name__ == "__main__":
    main()
