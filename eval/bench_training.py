"""See `eval.bench.training`: python eval/bench_training.py --help"""

from eval.bench.training import main

if __name__ == "__main__":
    main()
