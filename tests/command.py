"""The command `smqtt`, for the scripts beside this file."""

import os
import subprocess
import sys


def smqtt(binary, home, *arguments, text=None):
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SMQTT_")}
    done = subprocess.run([binary, *arguments], input=text, capture_output=True, text=True, env={**environment, "HOME": str(home)})
    if done.returncode:
        sys.exit(f"smqtt {' '.join(arguments)}: {done.stderr}")
    return done.stdout
