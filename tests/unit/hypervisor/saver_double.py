"""In the place of the saver's process: it says the lines that its first argument names, and can wait for a word or hang."""

import sys
import time

for part in sys.argv[1].split("|"):
    if part == "hang":
        time.sleep(3600)
    elif part == "hear":
        word = sys.stdin.readline().strip()
        sys.stdout.write(f'{{"event": "heard", "word": "{word}"}}\n')
        sys.stdout.flush()
    elif part == "end":
        sys.exit(0)
    else:
        sys.stdout.write(part + "\n")
        sys.stdout.flush()
