"""Check a data set against its manifest: python -m data_pipeline.verify DATA"""

from data_pipeline.arguments import CommandParser
from data_pipeline.errors import user_errors
from data_pipeline.manifest import Manifest


def main() -> None:
    """The command."""
    parser = CommandParser(prog="python -m data_pipeline.verify", description=__doc__)
    parser.add_argument("data", help="folder of a prepared data set")
    args = parser.parse_args()
    with user_errors():
        manifest = Manifest.load(args.data)
        manifest.verify(again=True)
    shards = sum(len(split.shards) for split in manifest.splits.values())
    print(f"{manifest.folder}: {shards} shards and the tokenizer are whole (fingerprint {manifest.fingerprint})")


if __name__ == "__main__":
    main()
