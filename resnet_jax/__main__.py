"""`python -m resnet_jax` is the console script `resnet-jax`."""

from resnet_jax.cli import main

if __name__ == "__main__":
  main()
