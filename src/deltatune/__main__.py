"""``python -m deltatune``, which is also how ``accelerate launch -m deltatune`` starts it."""

from deltatune.cli import main

if __name__ == "__main__":
    main()
