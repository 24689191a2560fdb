module formula

go 1.24

require github.com/expr-lang/expr v1.17.7 // as KEDA 2.19.0 has it
