// A boot sector that asks of a processor what any kernel will: long mode with paging, SSE, CMPXCHG16B, a BMI2
// instruction when CPUID offers it, and tens of millions of instructions in a moment. It answers on the first serial port.
//
// Built by "go generate" in the parent folder into boot.bin, which is committed, so that building needs no assembler.
// No relocations: every address is origin + (label - start).

.set origin, 0x7c00
.set tables, 0x10000            // page tables, 12 KiB of zeroed memory
.set loops, 50000000
.set port, 0x3f8

.code16
start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $origin, %sp
    movw $(tables >> 4), %ax
    movw %ax, %es
    xorw %di, %di
    xorw %ax, %ax
    movw $(0x3000 / 2), %cx
    cld
    rep stosw
    // One GiB mapped by 2 MiB pages: level 4, level 3, and one entry of level 2 is enough.
    movl $(tables + 0x1000 + 3), %es:0x0
    movl $(tables + 0x2000 + 3), %es:0x1000
    movl $0x83, %es:0x2000
    // SSE and physical address extension.
    movl %cr4, %eax
    orl $0x620, %eax
    movl %eax, %cr4
    movl $tables, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x100, %eax
    wrmsr
    lgdtl (origin + gdtr - start)
    movl %cr0, %eax
    andl $0xfffffffb, %eax
    orl $0x80000003, %eax
    movl %eax, %cr0
    .byte 0x66, 0xea            // far jump into 64-bit code
    .long origin + long - start
    .word 8

.code64
long:
    movl $origin, %esp
    // CMPXCHG16B, when offered.
    movl $1, %eax
    cpuid
    btl $13, %ecx
    jnc bmi
    xorl %eax, %eax
    xorl %edx, %edx
    movl $0x20000, %esi
    movq %rax, (%rsi)
    movq %rax, 8(%rsi)
    movl $7, %ebx
    xorl %ecx, %ecx
    lock cmpxchg16b (%rsi)
    jnz halt
bmi:
    xorl %eax, %eax
    cpuid
    cmpl $7, %eax
    jb sse
    movl $7, %eax
    xorl %ecx, %ecx
    cpuid
    btl $8, %ebx
    jnc sse
    movl $3, %ecx
    movl $5, %eax
    shlxl %ecx, %eax, %eax
    cmpl $40, %eax
    jne halt
sse:
    movl $9, %eax
    movd %eax, %xmm0
    paddd %xmm0, %xmm0
    movd %xmm0, %eax
    cmpl $18, %eax
    jne halt
    movl $loops, %ecx
spin:
    decl %ecx
    jnz spin
    movl $(origin + marker - start), %esi
say:
    movl $(port + 5), %edx
ready:
    inb %dx, %al
    testb $0x20, %al
    jz ready
    movl $port, %edx
    lodsb
    testb %al, %al
    jz halt
    outb %al, %dx
    jmp say
halt:
    hlt
    jmp halt

marker:
    .asciz "nimbrel-selftest: ok\n"
    .balign 8
gdt:
    .quad 0
    .quad 0x00209a0000000000    // 64-bit code
gdtr:
    .word 15
    .long origin + gdt - start

    .org 510
    .word 0xaa55
