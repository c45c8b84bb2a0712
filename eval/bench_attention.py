"""See `eval.bench.attention`: python eval/bench_attention.py --help"""

from eval.bench.attention import main

if __name__ == "__main__":
    main()
