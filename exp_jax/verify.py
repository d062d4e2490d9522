"""`python -m exp_jax.verify` is `exp-jax verify`; the command is in exp_jax/commands/verify.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.verify', run_name='__main__', alter_sys=True)
