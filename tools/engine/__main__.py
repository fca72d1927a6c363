import sys
from .measure import serve
serve(sys.stdin, sys.stdout)
