"""See `eval.bench.aggregation`: python eval/bench_aggregation.py --help"""

from eval.bench.aggregation import main

if __name__ == "__main__":
    main()
