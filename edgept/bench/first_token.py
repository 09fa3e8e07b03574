"""A small program as users write it: load, make a prompt resident, print the first token's id.

`python -m edgept.bench.first_token` reads its request as JSON from stdin. Its time from outside is
that of a process from start to first token.
"""

import json
import sys

import edgept


def _main() -> None:
    request = json.load(sys.stdin)
    try:
        model = edgept.load(
            request["bundle"], threads=request["threads"], providers=request["providers"]
        )
        prompt = model.load_prompt(request["prompt"])
        result = model.generate(request["content"], prompt=prompt, max_new_tokens=1)
    except edgept.EdgeptError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{result.token_ids[0]}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _main()
