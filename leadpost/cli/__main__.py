from leadpost.cli import main

main()
