// A control: Go's own CPU profiler, and goroutines that grow their stacks, panic, recover and make garbage.
//
// The runtime's handler copes with a signal at every instruction of the runtime, so nothing is found.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
)

const (
	goroutines = 4
	rounds     = 20000
)

type node struct {
	next *node
	data [64]byte
}

// The stack of a fresh goroutine grows several times on the way down.
func deep(n int) int {
	var pad [128]byte
	pad[n%128] = 1
	if n == 0 {
		return int(pad[0])
	}
	return deep(n-1) * int(pad[n%128])
}

func recovered(n int) (odd int) {
	defer func() {
		if recover() != nil {
			odd = 0
		}
	}()
	if n%2 == 0 {
		panic(n)
	}
	return 1
}

func work(sums chan<- int, all *sync.WaitGroup) {
	defer all.Done()
	var head *node
	sum := 0
	for i := 0; i < rounds; i++ {
		head = &node{next: head}
		if i%50 == 0 {
			head = nil
		}
		sum += recovered(i)
		if i%20 == 0 {
			done := make(chan int)
			go func() { done <- deep(300) }()
			sum += <-done
		}
	}
	sums <- sum
}

func main() {
	profile, err := os.CreateTemp("", "profile")
	if err != nil {
		panic(err)
	}
	defer os.Remove(profile.Name())
	if err := pprof.StartCPUProfile(profile); err != nil {
		panic(err)
	}
	sums := make(chan int, goroutines)
	var all sync.WaitGroup
	for i := 0; i < goroutines; i++ {
		all.Add(1)
		go work(sums, &all)
	}
	all.Wait()
	runtime.GC()
	pprof.StopCPUProfile()
	total := 0
	for i := 0; i < goroutines; i++ {
		total += <-sums
	}
	fmt.Println("go-profiled: total", total)
}
