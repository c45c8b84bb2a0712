"""See `eval.bench.generation`: python eval/bench_generate.py --help"""

from eval.bench.generation import main

if __name__ == "__main__":
    main()
