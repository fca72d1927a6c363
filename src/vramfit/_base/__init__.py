"""What every room uses: errors, sizes, foreign text, remembered answers, how results show themselves."""
