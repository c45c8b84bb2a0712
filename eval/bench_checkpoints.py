"""See `eval.bench.checkpoints`: python eval/bench_checkpoints.py --help"""

from eval.bench.checkpoints import main

if __name__ == "__main__":
    main()
