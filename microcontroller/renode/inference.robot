*** Comments ***
Sends every line of a file to the program on a simulated board, and waits for an answer to each.
    renode-test --variable ELF:/abs/firmware.elf --variable PLATFORM:/abs/stm32f405.repl
    ...         --variable UART:sysbus.usart1 --variable REQUESTS:/abs/requests.txt
    ...         --variable LOG:/abs/uart.txt inference.robot
What the board says is copied to LOG; kprune reads it there. Kept to keywords that have not changed
between Renode 1.13 and 1.16: the object that 'Wait For Line On Uart' returns has other member
names in each.

*** Settings ***
Suite Setup       Setup
Suite Teardown    Teardown
Test Setup        Reset Emulation
Test Teardown     Test Teardown
Library           OperatingSystem
Library           String
Resource          ${RENODEKEYWORDS}

*** Variables ***
${ELF}            ${CURDIR}/firmware.elf
${PLATFORM}       ${CURDIR}/stm32f405.repl
${UART}           sysbus.usart1
${REQUESTS}       ${CURDIR}/requests.txt
${LOG}            ${CURDIR}/uart.txt
# One instruction lasts 1 / MIPS microseconds of virtual time.
${MIPS}           168
# Virtual seconds that one answer may take.
${PATIENCE}       60

*** Keywords ***
Boot
    Remove File                 ${LOG}
    Execute Command             mach create "board"
    Execute Command             machine LoadPlatformDescription @${PLATFORM}
    Execute Command             sysbus.cpu PerformanceInMips ${MIPS}
    Execute Command             ${UART} CreateFileBackend @${LOG} true
    Execute Command             sysbus LoadELF @${ELF}
    # Flash need not begin at address 0.
    ${vectors}=                 Execute Command    sysbus GetSymbolAddress "vectors"
    Execute Command             sysbus.cpu VectorTableOffset ${vectors.strip()}
    Create Terminal Tester      ${UART}    timeout=${PATIENCE}
    Start Emulation
    # A serial port that is not up yet drops what it is sent.
    Wait For Line On Uart       (# kprune:|fault).*    treatAsRegex=true

Ask
    [Arguments]                 ${request}
    Write Line To Uart          ${request}    waitForEcho=false
    Wait For Line On Uart       (ok|error|fault).*    treatAsRegex=true

*** Test Cases ***
Answers Every Request
    Boot
    ${text}=                    Get File    ${REQUESTS}
    @{requests}=                Split To Lines    ${text}
    FOR    ${request}    IN    @{requests}
        Ask                     ${request}
    END
