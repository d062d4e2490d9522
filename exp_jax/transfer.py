"""`python -m exp_jax.transfer` is `exp-jax transfer`; the command is in
exp_jax/commands/transfer.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.transfer', run_name='__main__', alter_sys=True)
