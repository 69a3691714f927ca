"""`python -m keras_dl` is `keras-dl`."""

from keras_dl_cli import main

if __name__ == "__main__":
    main()
