"""`python -m exp_jax.demo` is `exp-jax demo`; the command is in exp_jax/commands/demo.py."""

import runpy

if __name__ == '__main__':
  runpy.run_module('exp_jax.commands.demo', run_name='__main__', alter_sys=True)
