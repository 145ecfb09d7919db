package cuda

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/tunekit/tunekit/formats/fail"
	"github.com/tunekit/tunekit/kernels/cuda/driver"
	"github.com/tunekit/tunekit/kernels/dtype"
)

// GroupsVariable is the environment variable that decides whether large products of 16 bits are those of warpgroups
// (wgmma_90a.cu) on a GPU of compute capability 9.0: 0 never, 1 always (it is an error when they compute wrong), auto or ""
// where they are clearly faster.
const GroupsVariable = "TUNE_WGMMA"

// groupProducts says whether products are those of warpgroups, and why. Set by Open before anybody else has the device.
type groupProducts struct {
	on  bool
	why string
}

// Tiles of wgmma_90a.cu, and the shared memory of a block.
const (
	groupHigh, groupWide = 128, 256
	groupShared          = 4 * (groupHigh + groupWide) * 64 * 2
)

// hasGroups says whether the device can.
func (c *CUDA) hasGroups() bool { return c.info.Major == 9 && c.info.Minor == 0 }

// chooseGroups decides about them: by the environment, by what an earlier run had (its level), or by speed.
func (c *CUDA) chooseGroups(earlier string) error {
	asked := os.Getenv(GroupsVariable)
	if !slices.Contains([]string{"", "auto", "0", "1"}, asked) {
		return fail.Usagef("device", "unset it to let the program choose", "%s=%s: known are 0, 1 and auto", GroupsVariable, asked)
	}
	if !c.hasGroups() {
		if asked == "1" {
			return fail.Usagef("device", "unset it: only GPUs of compute capability 9.0 have these instructions", "%s=1, but %s has compute capability %d.%d", GroupsVariable, c.info.Name, c.info.Major, c.info.Minor)
		}
		return nil
	}
	own := c.architecture()
	before, _, _ := strings.Cut(earlier, "+")
	begun := before == own+"a" && asked != "1" // with them
	switch {
	case asked == "0":
		c.groups.why = GroupsVariable + "=0"
		return nil
	case before == own && asked != "1":
		c.groups.why = "this run was begun without them"
		return nil
	}
	defer c.ResetCounters() // what it takes to choose is nobody's peak
	const without = "set " + GroupsVariable + "=0, which computes without them: what the run has made with them is then made again"
	err := c.proveProducts("wgmma", groupHigh/2+8, groupWide/2+72, 5*64+8, c.multiplyGroups)
	switch lost := c.lost(); {
	case lost != nil:
		return fail.Limitf(c.name, without, "products of warpgroups were tried: %w", lost)
	case err != nil && (asked == "1" || begun):
		return fail.Limitf(c.name, without, "products of warpgroups: %w", err)
	case err != nil:
		c.groups.why = err.Error()
		return nil
	case asked == "1":
		c.groups = groupProducts{true, GroupsVariable + "=1"}
		return nil
	case begun:
		c.groups = groupProducts{true, "this run was begun with them"}
		return nil
	}
	times, err := c.compare("wgmma", func(i int) { c.groups.on = i == 1 })
	c.groups.on = false
	switch lost := c.lost(); {
	case lost != nil:
		return fail.Limitf(c.name, without, "products of warpgroups were tried: %w", lost)
	case err != nil:
		c.groups.why = fmt.Sprintf("they could not be compared: %v", err)
	case times > clearlyFaster:
		c.groups = groupProducts{true, fmt.Sprintf("%.2f times as fast as mma; %s=0 turns them off", times, GroupsVariable)}
	default:
		c.groups.why = fmt.Sprintf("%.2f times as fast as mma, more than %.1f is needed; %s=1 takes them", times, clearlyFaster, GroupsVariable)
	}
	return nil
}

// describeGroups says whether our own large products are theirs; "" where the device cannot.
func (c *CUDA) describeGroups() string {
	switch {
	case c.groups.on:
		return ", our own large products by warpgroups (" + c.groups.why + ")"
	case c.groups.why != "":
		return ", no products of warpgroups (" + c.groups.why + ")"
	}
	return ""
}

// leastGroups is the size of a result up to which their tiles would be half empty.
var leastGroups = struct{ m, n int }{groupHigh / 2, groupWide / 2}

// forGroups says whether a product is one for warpgroups: there are tiles for all of a GPU, and they are not half empty. By
// shape alone, as mmaTile.
func (c *CUDA) forGroups(m, n, parts int) bool {
	return c.groups.on && m > leastGroups.m && n > leastGroups.n && int(blocksOf(m, groupHigh))*int(blocksOf(n, groupWide))*parts >= busy
}

// groupTask is the launch of a product of parts.
func (c *CUDA) groupTask(p *mmaArgs, ta, tb int32, kind dtype.Kind, parts int) task {
	return launchOf(c, "wgmma_"+orientation(ta, tb, kind), driver.Dim{X: blocksOf(int(p.n), groupWide), Y: blocksOf(int(p.m), groupHigh), Z: uint32(parts)}, driver.Dim{X: 256, Y: 1, Z: 1}, groupShared, p)
}

// multiplyGroups computes one product by them.
func (c *CUDA) multiplyGroups(p driver.Product) error {
	c.queue <- c.groupTask(&mmaArgs{a: p.A, b: p.B, c: dest{p: p.C, typ: elementTypes[p.Out], add: int32(p.Beta)}, lda: int32(p.LDA), ldb: int32(p.LDB),
		m: int32(p.M), n: int32(p.N), k: int32(p.K), alpha: p.Alpha}, flag(p.TA), flag(p.TB), p.Kind, 1)
	return nil
}
